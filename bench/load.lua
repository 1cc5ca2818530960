-- What wrk sends: SCENARIO is start, resolve or event; FIRST is the number of the first waiting run.
local scenario, first = os.getenv("SCENARIO"), tonumber(os.getenv("FIRST"))
local threads, payload = 0, string.rep("x", 1000)
local headers = {["Content-Type"] = "application/json"}

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  count = 0
  start = wrk.format("POST", "/api/v2/webhook?workflow=bench", headers,
                     '{"text": "' .. payload .. '"}')
end

function request()
  if scenario == "start" then return start end
  count = count + 1
  if scenario == "resolve" then
    local id = string.format("%032x", first + number + 2 * (count - 1))
    return wrk.format("POST", "/api/v2/callback?topic=done&workflowrun=" .. id, headers, "{}")
  end
  headers["ce-specversion"], headers["ce-type"], headers["ce-source"] = "1.0", "bench", "/bench"
  headers["ce-id"] = string.format("%d-%d-%d", first, number, count)
  return wrk.format("POST", "/api/v2/event?workflow=bench", headers, '{"text": "' .. payload .. '"}')
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
