-- Give a session to a run, unless another run that has not finished uses it. The run's epoch was checked before.
-- KEYS: session   ARGV: run id, what the keys of runs begin with (they stand in the session's slot)
-- Replies {'claimed', epoch} or {'used', run id} or {'unknown', ''}.
-- A run that finished, or is gone, uses nothing: so nobody has to give a session back, and no clock is asked.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'unknown', ''} end
local holder = redis.call('HGET', KEYS[1], 'run')
if holder and holder ~= ARGV[1] then
  local run = redis.call('HMGET', ARGV[2] .. holder, 'epoch', 'finished')
  if run[1] and not run[2] then return {'used', holder} end
end
redis.call('HSET', KEYS[1], 'run', ARGV[1])
return {'claimed', redis.call('HINCRBY', KEYS[1], 'epoch', 1)}
