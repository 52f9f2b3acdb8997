-- Before every script that leaves keys behind (`scripts`): does nothing for a tenant that is erased.
-- KEYS: the script's own   ARGV: the script's own
local tenant = string.match(KEYS[1], '^rlm:({[^}]+}):')
if tenant and redis.call('EXISTS', 'rlm:erased:' .. tenant) == 1 then
  return redis.error_reply('ERASED the tenant is erased')
end
