-- End a claim (the request is done, or it was refused and is forgotten), or renew it. Nothing happens to a claim of
-- somebody else.
-- KEYS: the request, the tenant's requests by when they were first claimed
-- ARGV: token of the claim, 'done', 'refused' or 'renewed', claimed until (s; only to renew)
-- Replies 1 when the claim was this one.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if ARGV[2] == 'done' then
  redis.call('HDEL', KEYS[1], 'token', 'until')
elseif ARGV[2] == 'renewed' then
  redis.call('HSET', KEYS[1], 'until', ARGV[3])
else
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], KEYS[1])
end
return 1
