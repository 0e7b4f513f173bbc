-- Reads for wrk: totals by id. Used by bench/reads.py.
--
-- wrk ... -s reads.lua URL -- ENTITIES CONNECTIONS PAUSE
--   ENTITIES     how many are asked for, at random
--   CONNECTIONS  wrk's own number of them
--   PAUSE        milliseconds a connection waits before it asks again; 0: none
-- wrk calls delay() before each request of a connection, the first one too. The first pauses differ, so that the
-- connections follow one another at equal distances.

local entities, connections, pause, begun = 1, 1, 0, 0

local function paced()
  if begun == connections then return pause end
  begun = begun + 1
  return pause * begun / connections
end

function init(args)
  entities, connections, pause = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  math.randomseed(os.time())
  if pause > 0 then delay = paced end
end

function request()
  local number = 1e11 + math.random(0, entities - 1)
  return wrk.format('GET', string.format('%s0f8fad5b-d9cb-469f-a165-%.0f', wrk.path, number))
end

dofile(debug.getinfo(1, 'S').source:match('^@(.*/)') .. 'result.lua')
