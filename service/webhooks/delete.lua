-- Forget a webhook with all its deliveries. Without any webhook, no ends are noted any more.
-- KEYS: the webhook, the tenant's webhooks, what is there while ends are noted, the ends that were noted, deliveries of
--       the webhook, deliveries that are due
-- ARGV: webhook id, what the keys of deliveries begin with
-- Replies 1 when it was there.
local gone = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  redis.call('DEL', ARGV[2] .. id)
  redis.call('ZREM', KEYS[6], id)
end
redis.call('DEL', KEYS[5])
if redis.call('ZCARD', KEYS[2]) == 0 then redis.call('DEL', KEYS[3], KEYS[4]) end
return gone
