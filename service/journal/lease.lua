-- Say that the holder of an epoch is alive until a time.
-- KEYS: run, leases of unfinished runs
-- ARGV: epoch, run id, until (seconds)
local state = redis.call('HMGET', KEYS[1], 'epoch', 'finished')
if not state[1] then return 'unknown' end
if state[1] ~= ARGV[1] then return 'stale' end
if state[2] then return 'finished' end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
return 'kept'
