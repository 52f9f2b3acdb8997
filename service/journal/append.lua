-- Append a batch of events to a run, as the holder of an epoch.
-- KEYS: run, its events, leases of unfinished runs, what is there while ends are noted, the ends that were noted
-- ARGV: epoch, token of this batch, run id, hint channel, hint topic, 'finish' or '' (whether the last event ends the
--       run), how many ends are noted at most, what is hinted at when one was, then the packed events
-- Replies {'appended', first seq, bytes that stand in the stream} or {'unknown' | 'stale' | 'finished', 0, 0}.
-- The token makes a repeated batch (its first reply was lost with the connection) find its own outcome. One batch per
-- epoch is under way at a time, so remembering the last one is enough.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'token_seq', 'finished', 'seq')
if not state[1] then return {'unknown', 0, 0} end
if state[1] ~= ARGV[1] then return {'stale', 0, 0} end
if state[2] == ARGV[2] then return {'appended', tonumber(state[3]), 0} end
if state[4] then return {'finished', 0, 0} end
local first = tonumber(state[5]) + 1
local seq = first - 1
local size = 0
for i = 9, #ARGV do
  seq = seq + 1
  redis.call('XADD', KEYS[2], string.format('%d-0', seq), 'e', ARGV[i])
  size = size + #ARGV[i]
end
local open = redis.call('HINCRBY', KEYS[1], 'open_bytes', string.format('%d', size))
redis.call('HSET', KEYS[1], 'seq', string.format('%d', seq), 'token', ARGV[2], 'token_seq', string.format('%d', first))
if ARGV[6] == 'finish' then
  redis.call('HSET', KEYS[1], 'finished', redis.call('TIME')[1])
  -- Only a root run has a lease.
  if redis.call('ZREM', KEYS[3], ARGV[3]) == 1 and redis.call('EXISTS', KEYS[4]) == 1 then
    redis.call('RPUSH', KEYS[5], ARGV[3])
    redis.call('LTRIM', KEYS[5], '-' .. ARGV[7], '-1')
    redis.call('PUBLISH', ARGV[4], ARGV[8])
  end
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {'appended', first, open}
