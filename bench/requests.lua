-- Requests for wrk: every event id new, over 5,000 entities. Used by bench/wrk.py.
--
-- wrk ... -s requests.lua URL -- TAG MINUTE EVENTS
--   TAG     8 hex digits, different for every run, so that no id comes twice
--   MINUTE  YYYY-MM-DDTHH:MM, when the events happened
--   EVENTS  events of a request: 1 makes single events, more a JSON array
-- The bodies lie ready, cut at the place of each id. wrk joins the pieces with the request's number, one concatenation
-- a request. The slot's number makes the ids of one batch differ. The instants have milliseconds, as a browser's have.

local ENTITIES = 5000
local bodies, count, sent = {}, 0, 0

local function pieces_of(first, events, tag, minute)
  local pieces, length = {''}, 0
  for slot = 0, events - 1 do
    local i = first + slot
    local front = string.format('{"event_id":"%s-0000-4000-%04x-', tag, slot)
    local back = string.format(
      '","domain":"jav","entity_type":"movie","entity_id":"0f8fad5b-d9cb-469f-a000-%012x","action":"%s","value":1,'
        .. '"occurred_at":"%s:%02d.%03dZ"}',
      i, i % 5 == 0 and 'download' or 'view', minute, i * 7 % 60, i * 13 % 1000)
    if events > 1 then
      front = (slot == 0 and '[' or ',') .. front
      back = back .. (slot == events - 1 and ']' or '')
    end
    pieces[slot + 1] = pieces[slot + 1] .. front
    pieces[slot + 2] = back
    length = length + #front + 12 + #back
  end
  pieces[1] = string.format(
    'POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n',
    wrk.path, wrk.host, length
  ) .. pieces[1]
  return pieces
end

function init(args)
  local tag, minute, events = args[1], args[2], tonumber(args[3])
  count = ENTITIES / events
  for body = 0, count - 1 do bodies[body] = pieces_of(body * events, events, tag, minute) end
end

function request()
  sent = sent + 1
  return table.concat(bodies[sent % count], string.format('%012x', sent))
end

dofile(debug.getinfo(1, 'S').source:match('^@(.*/)') .. 'result.lua')
