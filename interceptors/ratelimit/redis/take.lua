-- Takes a charge from a bucket, if it admits it. See Charge of package ratelimit.
--
-- The value is "seconds nanoseconds used burst": when the bucket is full, since 1970,
-- and what was used of which burst at the last charge. Times are nanoseconds: of
-- differences of up to 104 days, below 2^53, all numbers are exact.
local cost, burst, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local s, ns = tonumber(time[1]), tonumber(time[2]) * 1000

local used = 0
local kept = redis.call('GET', KEYS[1])
if kept then
  local ks, kns, kused, kburst = string.match(kept, '^(%d+) (%d+) (%d+) (%d+)$')
  if ks then
    -- No more than before, should the clock have been set back.
    used = math.max(0, math.min((ks - s) * 1e9 + (kns - ns), tonumber(kused)))
    if tonumber(kburst) ~= burst then -- the limit has changed: the share is kept
      used = math.ceil(math.min(used / kburst, 1) * burst)
    end
  end
end

local wait = math.max(0, used + cost - burst)
local admitted = wait <= patience and cost > 0
if admitted then
  used = used + cost
  local full = ns + used
  local rest = math.fmod(full, 1e9)
  redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f %.0f', s + (full - rest) / 1e9, rest, used, burst))
  -- Not PX, which counts from a clock that may have gone on since TIME.
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', s * 1000 + math.ceil(full / 1e6)))
end
return string.format('%d %.0f %.0f %.0f %.0f', admitted and 1 or 0, wait, used, s, ns)
