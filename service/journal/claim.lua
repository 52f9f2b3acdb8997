-- Take a run to drive: a new epoch, which shuts out whoever drove it before, and a lease.
-- KEYS: run, leases of unfinished runs (a root run's; the time in seconds until which each is kept)
-- ARGV: run id, who asks, how long to keep it (seconds)
-- Replies {'claimed', epoch, 1 when it was driven before, else 0} or {'unknown' | 'finished' | 'kept', 0, 0}.
-- The server's own clock is asked: replicas need not agree on the time.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'finished', 'keeper', 'driven')
if not state[1] then return {'unknown', 0, 0} end
if state[2] then return {'finished', 0, 0} end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept_until = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0')
if kept_until > now and state[3] ~= ARGV[2] then return {'kept', 0, 0} end
redis.call('HDEL', KEYS[1], 'token', 'token_seq')
redis.call('HSET', KEYS[1], 'keeper', ARGV[2], 'driven', '1')
redis.call('ZADD', KEYS[2], string.format('%.3f', now + tonumber(ARGV[3])), ARGV[1])
return {'claimed', redis.call('HINCRBY', KEYS[1], 'epoch', 1), state[4] and 1 or 0}
