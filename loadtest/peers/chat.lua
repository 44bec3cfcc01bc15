-- The request that `kvasir loadtest` sends too.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"null","stream":false,"max_tokens":1,"min_tokens":1,"ignore_eos":true,'
  .. '"messages":[{"role":"user","content":"just say a word"}]}'
