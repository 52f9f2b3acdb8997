-- Count the bytes of what nothing refers to any more no longer. The theory stands in storage_hold.lua.
--
-- KEYS: the referrer, the tenant's counter
-- ARGV: referrer's id
-- Replies the digests that nothing of the tenant refers to now
--
-- The counters of further levels are known by the referrer only; they stand in the same slot.
local flat = redis.call('HGETALL', KEYS[1])
local counters, blobs, free = {}, {}, {}
for i = 1, #flat, 2 do
  local kind, name = string.sub(flat[i], 1, 2), string.sub(flat[i], 3)
  if kind == 'l:' then counters[#counters + 1] = name else blobs[#blobs + 1] = { name, flat[i + 1] } end
end
for _, blob in ipairs(blobs) do
  for _, counter in ipairs(counters) do
    local set = counter .. ':' .. blob[1]
    if redis.call('SREM', set, ARGV[1]) == 1 and redis.call('EXISTS', set) == 0 then
      redis.call('DECRBY', counter, blob[2])
      if counter == KEYS[2] then free[#free + 1] = blob[1] end
    end
  end
end
redis.call('DEL', KEYS[1])
return free
