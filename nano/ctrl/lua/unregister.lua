-- Removes the entry if this incarnation still has it. ARGV: token, cap, id, incarnation.
-- Returns as heartbeat.lua does.
local cap, id, incarnation = ARGV[2], ARGV[3], ARGV[4]
local record = redis.call('HGET', ENTRIES, id)
if not record then return 'unknown' end
if fields(record) ~= incarnation then return 'replaced' end
drop('removed', id, cap)
return 'ok'
