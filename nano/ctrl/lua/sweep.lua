-- Turns every lease that has ended into a "lost" event. ARGV: token, cap. Returns {epoch, revision, interval in ms},
-- the interval being when to sweep next. A sweep that comes much later than that means that nobody could renew a
-- lease meanwhile (Redis was frozen or away, or no watcher ran): that time is given back to every lease.
local cap = ARGV[2]
local at = epoch()
local time = now()
local swept = tonumber(redis.call('HGET', STATE, 'swept') or time)
local interval = tonumber(redis.call('HGET', STATE, 'interval') or 0)
local away = time - swept
if away < 0 or away > 2 * interval then
  local leases = redis.call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    local _, lease = fields(redis.call('HGET', ENTRIES, leases[i]))
    -- Never beyond a whole lease from now: one renewed a moment ago needs nothing back, nor does a clock set back.
    redis.call('ZADD', LEASES, math.min(leases[i + 1] + math.max(away, 0), time + lease), leases[i])
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', time)) do drop('lost', id, cap) end
local min_lease = tonumber(redis.call('HGET', STATE, 'min_lease') or 20000)
interval = math.max(200, math.min(2000, math.floor(min_lease / 10)))
redis.call('HSET', STATE, 'swept', time, 'interval', interval)
return {at, revision(), interval}
