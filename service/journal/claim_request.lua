-- Claim a client's request for whoever is about to do it, or find what it stands for.
-- KEYS: the request, the tenant's requests by when they were first claimed
-- ARGV: digest of its body, what it shall stand for, token of this claim, now (s), claimed until (s), kept for (ms),
-- what it shall not stand for any more (or empty), how many requests are kept at most
-- Replies {'claimed' | 'done' | 'busy' | 'differs', what it stands for}.
-- A claim whose time is over belonged to a replica that died: the next one takes it, and what it stands for stays.
-- Of too many requests the oldest go, but for those that are being done: they are put behind the others.
local found = redis.call('HMGET', KEYS[1], 'body', 'target', 'token', 'until')
if not found[1] or (found[1] == ARGV[1] and not found[3] and found[2] == ARGV[7]) then
  redis.call('HSET', KEYS[1], 'body', ARGV[1], 'target', ARGV[2], 'token', ARGV[3], 'until', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', tonumber(ARGV[4]) - tonumber(ARGV[6]) / 1000)
  redis.call('ZADD', KEYS[2], ARGV[4], KEYS[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
  if redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[8]) then
    for _, oldest in ipairs(redis.call('ZRANGE', KEYS[2], 0, 1)) do
      local claimed_until = redis.call('HGET', oldest, 'until')
      if oldest == KEYS[1] or claimed_until and tonumber(claimed_until) > tonumber(ARGV[4]) then
        redis.call('ZADD', KEYS[2], ARGV[4], oldest)
      else
        redis.call('DEL', oldest)
        redis.call('ZREM', KEYS[2], oldest)
      end
    end
  end
  return {'claimed', ARGV[2]}
end
if found[1] ~= ARGV[1] then return {'differs', ''} end
if not found[3] then return {'done', found[2]} end
if found[3] ~= ARGV[3] and tonumber(found[4]) > tonumber(ARGV[4]) then return {'busy', found[2]} end
redis.call('HSET', KEYS[1], 'token', ARGV[3], 'until', ARGV[5])
return {'claimed', found[2]}
