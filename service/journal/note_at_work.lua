-- Note a tenant whose run is about to be opened.
-- KEYS: tenants with runs, tenants at work by when they were noted last
-- ARGV: tenant, now (s)
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
