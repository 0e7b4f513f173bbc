-- What `just lint` holds the Lua to: every script runs in a program that brings globals of its own.
std = "lua51"
max_line_length = 120
files["lua"] = { read_globals = { "redis", "cmsgpack", "KEYS", "ARGV", "struct", "bit" } }
files["bench"] = { read_globals = { "wrk" }, globals = { "init", "delay", "request", "response", "done" } } -- wrk
files["bench/peers/count.lua"] = { globals = { "ngx" } } -- nginx
files["bench/peers/dedupe.lua"] = { read_globals = { "redis", "KEYS", "ARGV" } } -- Redis
