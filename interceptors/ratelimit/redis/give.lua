-- Gives back what a charge has taken and has not come back by itself. See Store.Give
-- of package ratelimit, and take.lua for the value.
local cost, burst, fs, fns = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local kept = redis.call('GET', KEYS[1])
if not kept then
  return 0
end
local ks, kns, kused, kburst = string.match(kept, '^(%d+) (%d+) (%d+) (%d+)$')
if not ks or tonumber(kburst) ~= burst then
  return 0
end
local time = redis.call('TIME')
local s, ns = tonumber(time[1]), tonumber(time[2]) * 1000
local left = (fs - s) * 1e9 + (fns - ns) -- until that charge has come back
local back = math.min(cost, left)
if left > burst then -- its time is still to come
  if tonumber(ks) ~= fs or tonumber(kns) ~= fns then
    return 0
  end
  back = cost
end
if back <= 0 then
  return 0
end
local used = math.min((ks - s) * 1e9 + (kns - ns), tonumber(kused)) - back
if used <= 0 then
  redis.call('DEL', KEYS[1])
  return 1
end
local full = ns + used
local rest = math.fmod(full, 1e9)
redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f %.0f', s + (full - rest) / 1e9, rest, used, burst))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', s * 1000 + math.ceil(full / 1e6)))
return 1
