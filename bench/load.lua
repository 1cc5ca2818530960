-- What wrk sends. SCENARIO is start, resolve or event; FIRST is the number of the first waiting run,
-- or what makes the events' ids new; PAUSE is how many milliseconds a connection rests between two.
local scenario, first = os.getenv("SCENARIO"), os.getenv("FIRST")
local pause = tonumber(os.getenv("PAUSE"))
local headers = {["Content-Type"] = "application/json"}
local payload = '{"text": "' .. string.rep("x", 1000) .. '"}'
local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

function init(args)
  sent = 0
  start = wrk.format("POST", "/api/v2/webhook?workflow=bench", headers, payload)
  headers["ce-specversion"], headers["ce-type"], headers["ce-source"] = "1.0", "bench", "/bench"
end

function request()
  local number = 2 * sent + thread_number -- wrk runs two threads
  sent = sent + 1
  if scenario == "start" then return start end
  if scenario == "resolve" then
    local id = string.format("%032x", tonumber(first) + number)
    return wrk.format("POST", "/api/v2/callback?topic=done&workflowrun=" .. id, headers, "{}")
  end
  headers["ce-id"] = first .. "-" .. number
  return wrk.format("POST", "/api/v2/event?workflow=bench", headers, payload)
end

if pause then
  function delay() return pause end
end

function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
