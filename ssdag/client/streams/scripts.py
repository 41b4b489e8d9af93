# SPDX-License-Identifier: BSD-3-Clause
"""What the server does for a stream, in one step each: small programs in its own language.

The keys of a stream share a hash tag, so a cluster has all of them on one node:

``{name}:stream``
    A stream of Redis with an entry for each record: ``<number>-0``, the fields ``layout``
    and ``bytes``, or, if the record is large, ``at``: the key that has its bytes. An entry
    with the field ``end`` is the end.
``{name}:stream:<writer>:<sequence>``
    The bytes of a large record; they go by themselves if they never become an entry.
``{name}:stream:state``
    A hash: capacity, policy, how many were appended and dropped, who has ended.
``{name}:stream:room``
    A list with a token when a writer that waits may look again.
``{name}:stream:<writer>``
    For a while, the last record that a writer has appended, so that one whose answer was
    lost is not appended twice.

A slot of a cluster that is being moved has some keys here and some there. The server then
answers TRYAGAIN if a program names keys that it has and keys that it has not, and clients
try again; where keys cannot be named beforehand the programs answer the same.
"""

from __future__ import annotations

_SHARED = """
local function map(flat)
  local out = {}
  for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
  return out
end
local function number(id) return string.match(id, '^%d+') end
local function groups()
  if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
  local out = redis.call('XINFO', 'GROUPS', KEYS[1])
  for i = 1, #out do out[i] = map(out[i]) end
  return out
end
local function taken(id, in_groups)
  for _, g in ipairs(in_groups) do
    if #redis.call('XPENDING', KEYS[1], g.name, id, id, 1) > 0 then return true end
  end
  return false
end
local function delivered(id, in_groups)
  for _, g in ipairs(in_groups) do
    if tonumber(number(g['last-delivered-id'])) < tonumber(number(id)) then return false end
  end
  return #in_groups > 0
end
local function finished(id, in_groups)
  return delivered(id, in_groups) and not taken(id, in_groups)
end
local function evict(id, flat)
  local at = map(flat).at
  local freed = at and redis.pcall('UNLINK', at)
  if type(freed) == 'table' then return redis.error_reply('TRYAGAIN a key has moved') end
  redis.call('XDEL', KEYS[1], id)
end
local function from_the_oldest(count, enough)
  local begin = '-'
  while true do
    local entries = redis.call('XRANGE', KEYS[1], begin, '+', 'COUNT', count)
    for _, entry in ipairs(entries) do
      local answer = enough(entry[1], entry[2])
      if answer then return answer end
    end
    if #entries < count then return nil end
    begin = '(' .. entries[#entries][1]
  end
end
local function wake_writer()
  if redis.call('LLEN', KEYS[3]) == 0 then redis.call('RPUSH', KEYS[3], '1') end
end
local function setting(name, given)
  redis.call('HSETNX', KEYS[2], name, given)
  return redis.call('HGET', KEYS[2], name)
end
"""

#: Keys: stream, state. Settings are set if given and new; returns those that hold.
OPEN = (
    _SHARED
    + """
local out = {}
for i = 1, #ARGV, 2 do
  local is = redis.call('HGET', KEYS[2], ARGV[i])
  if not is and ARGV[i + 1] ~= '' then is = setting(ARGV[i], ARGV[i + 1]) end
  out[#out + 1] = is or ''
end
return out
"""
)

#: What :data:`APPEND` answers first: done, no room, its bytes are gone, the stream has ended.
DONE, FULL, RESEND, ENDED = 1, 0, -1, -2

#: Keys: stream, state, room, writer, bytes of a large record. Values: sequence, capacity,
#: policy, evicts, large, layout, bytes of a small one, how long bytes that are no entry
#: stay (ms), how long the writer is remembered (s), whether it has waited, so that the next
#: one that waits must be told if there is more room. Returns what became of it, and whether
#: the next one has to wait.
APPEND = (
    _SHARED
    + """
local s = redis.call('HMGET', KEYS[2], 'capacity', 'policy', 'evict', 'ended')
local capacity = tonumber(s[1] or setting('capacity', ARGV[2]))
local blocks = (s[2] or setting('policy', ARGV[3])) == 'block'
local evicts = (s[3] or setting('evict', ARGV[4])) == '1'
local large = ARGV[5] == '1'
local held = redis.call('XLEN', KEYS[1])
local sequence, last = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (%d+%-0)$')
if sequence == ARGV[1] then
  if large and #redis.call('XRANGE', KEYS[1], last, last) > 0 then
    redis.call('PERSIST', KEYS[5])
  else
    redis.call('UNLINK', KEYS[5])
  end
  return {1, blocks and held >= capacity and 1 or 0}
end
if s[4] then
  redis.call('UNLINK', KEYS[5])
  wake_writer()
  return {-2, 0}
end
if held >= capacity then
  local all = groups()
  local in_work = 0
  if not blocks then
    for _, g in ipairs(all) do in_work = in_work + g.pending end
  end
  local over = held - in_work - capacity + 1
  if over > 0 and not (blocks and evicts) then
    local answer = from_the_oldest(over + in_work, function(id, flat)
      local read = delivered(id, all)
      if blocks and not read then return true end  -- nor is any later one
      if not taken(id, all) then
        local failed = evict(id, flat)
        if failed then return failed end
        if not read then redis.call('HINCRBY', KEYS[2], 'dropped', 1) end
        held = held - 1
        over = over - 1
      end
      return over == 0
    end)
    if type(answer) == 'table' then return answer end
  end
  if blocks and held >= capacity then
    redis.call('DEL', KEYS[3])
    if large then redis.call('PEXPIRE', KEYS[5], ARGV[8]) end
    return {0, 1}
  end
end
if large and redis.call('EXISTS', KEYS[5]) == 0 then return {-1, 0} end
local id = string.format('%.0f-0', redis.call('HINCRBY', KEYS[2], 'appended', 1))
if large then
  redis.call('PERSIST', KEYS[5])
  redis.call('XADD', KEYS[1], id, 'layout', ARGV[6], 'at', KEYS[5])
else
  redis.call('XADD', KEYS[1], id, 'layout', ARGV[6], 'bytes', ARGV[7])
end
redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. id, 'EX', ARGV[9])
local full = blocks and held + 1 >= capacity
if ARGV[10] == '1' and not full then wake_writer() end
return {1, full and 1 or 0}
"""
)

#: Keys: stream, state, room. Returns 1 if a writer has to wait.
IS_FULL = (
    _SHARED
    + """
local s = redis.call('HMGET', KEYS[2], 'capacity', 'policy', 'evict', 'ended')
if not s[1] or s[2] ~= 'block' or s[4] then return 0 end
if redis.call('XLEN', KEYS[1]) < tonumber(s[1]) then return 0 end
if s[3] ~= '1' then
  local all = groups()
  local answer = from_the_oldest(16, function(id)
    if not delivered(id, all) then return 'full' end
    return not taken(id, all) and 'room'
  end)
  if answer == 'room' then return 0 end
end
redis.call('DEL', KEYS[3])
return 1
"""
)

#: Keys: stream, state, room, and bytes if it is large. Values: group, id. The entry is done with.
ACK = (
    _SHARED
    + """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local marker = redis.call('HGET', KEYS[2], 'marker')
if marker then
  if marker == ARGV[2] then
    local part = tonumber(string.match(marker, '%d+$')) + 1
    local next = number(marker) .. '-' .. string.format('%.0f', part)
    local reason = redis.call('HGET', KEYS[2], 'ended')
    redis.call('XDEL', KEYS[1], marker)
    redis.call('XADD', KEYS[1], next, 'end', reason)
    redis.call('HSET', KEYS[2], 'marker', next)
    return 1
  end
  if not string.match(ARGV[2], '-0$') then return 1 end
end
if finished(ARGV[2], groups()) then
  if redis.call('HGET', KEYS[2], 'evict') ~= '0' then
    redis.call('XDEL', KEYS[1], ARGV[2])
    if KEYS[4] then redis.call('UNLINK', KEYS[4]) end
  end
  wake_writer()
end
return 1
"""
)

#: Keys: stream, state, room. Values: writer, how many writers there are, why it gave up or
#: '', whether it speaks for all. Returns 1 if the stream has ended.
END = (
    _SHARED
    + """
if redis.call('HEXISTS', KEYS[2], 'ended') == 1 then return 1 end
local writers = tonumber(setting('writers', ARGV[2]))
redis.call('HSET', KEYS[2], 'end:' .. ARGV[1], 1)
if ARGV[3] == '' and ARGV[4] ~= '1' then
  local ends = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(field, 1, 4) == 'end:' then ends = ends + 1 end
  end
  if ends < writers then return 0 end
end
local marker = (redis.call('HGET', KEYS[2], 'appended') or '0') .. '-1'
redis.call('HSET', KEYS[2], 'ended', ARGV[3], 'marker', marker)
redis.call('XADD', KEYS[1], marker, 'end', ARGV[3])
wake_writer()
return 1
"""
)

#: Keys: stream. Values: group, where it begins. Makes it if there is none.
JOIN = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if made.err and not string.match(made.err, 'BUSYGROUP') then return made end
return 1
"""

#: Keys: stream. Values: group, consumer. Forgets a reader that has nothing in work.
LEAVE = (
    _SHARED
    + """
if #groups() == 0 then return 0 end
local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if found.err or #found > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
)

#: Keys: stream, state. Values: group, consumer, channel prefix, idle time (ms) or ''. Takes
#: over an entry of a reader that is gone (nobody listens on its channel), or that has had
#: it for so long. Returns the entry or nil, and why the stream has ended ('' if it was not
#: given up) or nil if more may come.
TAKE_OVER = (
    _SHARED
    + """
local mine
for _, g in ipairs(groups()) do
  if g.name == ARGV[1] then mine = g end
end
if not mine then return {false, false} end
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local other = map(flat)
  if other.name ~= ARGV[2] then
    local ours = string.sub(other.name, 1, 6) == 'ssdag/'
    local gone = ours and redis.call('PUBSUB', 'NUMSUB', ARGV[3] .. other.name)[2] == 0
    if other.pending == 0 then
      if gone then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], other.name) end
    elseif gone or ARGV[4] ~= '' then
      local idle = gone and '0' or ARGV[4]
      local old = redis.call(
        'XPENDING', KEYS[1], ARGV[1], 'IDLE', idle, '-', '+', 1, other.name)
      if #old > 0 then
        local got = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], idle, old[1][1])
        if #got > 0 and got[1] then
          if gone and other.pending == 1 then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], other.name)
          end
          return {got[1], false}
        end
        redis.call('XACK', KEYS[1], ARGV[1], old[1][1])
      end
    end
  end
end
local s = redis.call('HMGET', KEYS[2], 'ended', 'appended')
if s[1] and tonumber(number(mine['last-delivered-id'])) >= tonumber(s[2] or '0') then
  return {false, s[1]}
end
return {false, false}
"""
)

#: Keys: stream, state, room. Values: group. The group waits for nothing any more.
REMOVE_GROUP = (
    _SHARED
    + """
local left, found = {}, false
for _, g in ipairs(groups()) do
  if g.name == ARGV[1] then found = true else left[#left + 1] = g end
end
if not found then return 0 end
if #left > 0 and redis.call('HGET', KEYS[2], 'evict') ~= '0' then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
    if string.match(entry[1], '-0$') and finished(entry[1], left) then
      local failed = evict(entry[1], entry[2])
      if failed then return failed end
    end
  end
end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
wake_writer()
return 1
"""
)

#: Keys: stream, state, room. Deletes all that the stream has; returns 1 if there was one.
DELETE = (
    _SHARED
    + """
local there = redis.call('EXISTS', KEYS[1], KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
    local failed = evict(entry[1], entry[2])
    if failed then return failed end
  end
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return there > 0 and 1 or 0
"""
)

#: Keys: stream, state. Returns the state as a flat list, how many entries there are
#: without the end, and the groups as flat lists.
LOOK = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {redis.call('HGETALL', KEYS[2]), 0, {}} end
local held = redis.call('XLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[2], 'ended')
return {redis.call('HGETALL', KEYS[2]), held, redis.call('XINFO', 'GROUPS', KEYS[1])}
"""
