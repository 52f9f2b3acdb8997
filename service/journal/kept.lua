-- How many unfinished root runs somebody keeps now.
-- KEYS: leases of unfinished runs
local time = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], string.format('%.3f', tonumber(time[1]) + tonumber(time[2]) / 1000000), '+inf')
