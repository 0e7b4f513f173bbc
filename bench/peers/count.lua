-- The peer in nginx: decode, hardly any validation, one EVALSHA that dedupes and increments. See nginx.conf.
local cjson, redis = require 'cjson', require 'nginx.redis'

ngx.req.read_body()
local readable, event = pcall(cjson.decode, ngx.req.get_body_data())
if not (readable and event.event_id and event.entity_id and event.action and event.occurred_at) then
  return ngx.exit(422)
end

local store = redis:new()
store:set_timeout(2000)
assert(store:connect('127.0.0.1', tonumber(ngx.var.redis_port)))
local entity = event.domain .. ':' .. event.entity_type .. ':' .. event.entity_id
local field = event.action .. ':' .. event.occurred_at:sub(1, 10)
assert(store:evalsha(ngx.var.script_sha, 2, 'seen:' .. event.event_id, 'counters:' .. entity, field))
store:set_keepalive(60000, 128)

ngx.status = 202
ngx.header.content_type = 'application/json'
ngx.header.content_length = 21
ngx.print('{"status":"accepted"}')
