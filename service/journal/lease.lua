-- Say that the holder of an epoch is alive for some time to come, or that it lets the run go.
-- KEYS: run, leases of unfinished runs
-- ARGV: epoch, run id, for how long (seconds; 0: let go, from now on anybody may claim it)
local state = redis.call('HMGET', KEYS[1], 'epoch', 'finished')
if not state[1] then return 'unknown' end
if state[1] ~= ARGV[1] then return 'stale' end
if state[2] then return 'finished' end
local until_s = 0
if ARGV[3] ~= '0' then
  local time = redis.call('TIME')
  until_s = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[3])
end
redis.call('ZADD', KEYS[2], string.format('%.3f', until_s), ARGV[2])
return 'kept'
