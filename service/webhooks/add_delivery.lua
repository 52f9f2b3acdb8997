-- Keep a delivery and let it be due at once; the oldest one that nobody waits for makes room.
-- KEYS: the delivery, the webhook, deliveries of the webhook, deliveries that are due
-- ARGV: delivery id, record, now (s), most deliveries of a webhook, what the keys of deliveries begin with, kept for (s)
-- Replies 'added' | 'again' | 'full' | 'gone'. What finds no room is counted with the webhook.
if redis.call('EXISTS', KEYS[2]) == 0 then return 'gone' end
if redis.call('EXISTS', KEYS[1]) == 1 then return 'again' end
while redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[4]) do
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if redis.call('ZSCORE', KEYS[4], oldest) then
    redis.call('HINCRBY', KEYS[2], 'dropped', 1)
    return 'full'
  end
  redis.call('DEL', ARGV[5] .. oldest)
  redis.call('ZREM', KEYS[3], oldest)
end
redis.call('HSET', KEYS[1], 'record', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return 'added'
