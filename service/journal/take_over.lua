-- Give a run a new epoch, which shuts out whoever drove it before.
-- KEYS: run
-- Replies the new epoch, -1 for an unknown run, -2 for a finished one.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if redis.call('HEXISTS', KEYS[1], 'finished') == 1 then return -2 end
redis.call('HDEL', KEYS[1], 'token', 'token_seq')
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
