-- SPDX-License-Identifier: GPL-2.0-only
-- What wrk measured, in one line of JSON: its own text rounds, and knows fewer percentiles.

function done(summary, latency, requests)
   local errors = summary.errors
   local values = {
      requests = summary.requests,
      seconds = summary.duration / 1e6,
      bytes = summary.bytes,
      connect_errors = errors.connect,
      read_errors = errors.read,
      write_errors = errors.write,
      timeouts = errors.timeout,
      bad_statuses = errors.status,
      mean_us = summary.requests > 0 and latency.mean or 0,
      p50_us = latency:percentile(50),
      p90_us = latency:percentile(90),
      p99_us = latency:percentile(99),
      p999_us = latency:percentile(99.9),
      max_us = summary.requests > 0 and latency.max or 0,
   }
   local words = {}
   for name, value in pairs(values) do
      table.insert(words, string.format('"%s": %.14g', name, value))
   end
   io.write("{" .. table.concat(words, ", ") .. "}\n")
end
