#!lua name=trade2026_ledger_@VERSION@
-- The ledger's only way to change an account, its orders, their indexes and the outbox: all or nothing.
--
-- KEYS: account, outbox, deadline, ended, open, index, denied. The record and client-id keys in ARGV carry
-- the same hash tag.
--
-- ARGV: expected token ('' = there is no such account), new token ('' = change nothing, only compare),
--       commit for the outbox ('' = none), changed positions ('' = none), record key prefix, client-id key
--       prefix, cap of denials, milliseconds that the client id of an ended order is kept, and that of one that
--       was given up, then the lengths of these lists, then their items:
--    1  record keys that must be absent
--    2  client-id keys that nobody may keep from a new order: key, the new order's id
--    3  record keys whose values the caller needs when the commit is refused
--    4  account fields: field, value
--    5  records of orders: key, value
--    6  client-id keys of orders that were given up: key, what keeps it from them and from older orders
--    7  client-id keys of open orders: key, order id
--    8  client-id keys of ended orders: key, order id
--    9  new orders for the index: 0, order id
--   10  new orders for the open set: 0, order id
--   11  ids that leave the open set
--   12  deadlines: millisecond, order id
--   13  ids that leave the deadline index
--   14  ended orders: milliseconds that the record stays at least, order id
--   15  denials whose client id is remembered: '<order id> <client order id>'
--
-- Answers 1 when committed (or when the token is the expected one and nothing was to change). Otherwise:
--   {account hash or false when the token was the expected one,
--    values of list 3, what keeps each key of list 2 or false, records of the orders that list 2 named}.
-- The last step reads the token, so that the caller's connection goes on tracking the account: a write ends
-- tracking, and a connection is not told of its own writes.

local HEADER, LISTS = 9, 15

-- The server's clock: outbox entries are named by it too.
local function milliseconds()
  local time = server.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A client-id key holds an order id while the order's record is here, and afterwards a JSON array with what a
-- repeated request is answered; the array begins with the order's ULID, the id's last 26 characters. A '!' before
-- the array: the order was given up, and keeps the key only from itself and from orders that are older. No
-- account's name, hence no order id, begins with one of the two.
local function remembered(holder)
  return string.sub(holder, 1, 1) == '['
end

local function names(holder, id)
  return holder == id or remembered(holder) and string.sub(holder, 3, 28) == string.sub(id, -26)
end

local function given_up(holder)
  return string.sub(holder, 1, 1) == '!'
end

-- Byte by byte: Lua compares by the server's locale, in which Z may come before T.
local function at_most(one, other)
  for i = 1, #one do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return true
end

-- ULIDs grow with time.
local function keeps(holder, id)
  return not given_up(holder) or at_most(string.sub(id, -26), string.sub(holder, 4, 29))
end

-- The order whose record tells all of `holder`, which keeps its key from order `id` of the same account; false
-- when that record has gone.
local function recorded(holder, id)
  if given_up(holder) then return string.sub(id, 1, -27) .. string.sub(holder, 4, 29) end
  return not remembered(holder) and holder
end

local function commit(keys, args)
  local account = keys[1]
  local expected, fresh = args[1], args[2]
  local first, last = {}, {}
  local at = HEADER + LISTS
  for list = 1, LISTS do
    local length = tonumber(args[HEADER + list])
    first[list] = at + 1
    at = at + length
    last[list] = at
  end
  local function items(list)
    return unpack(args, first[list], last[list])
  end
  local function any(list)
    return last[list] >= first[list]
  end

  local current = server.call('HGET', account, 'token') or ''
  local same = current == expected
  local holders, taken = {}, false
  for i = first[2], last[2], 2 do
    local holder = server.call('GET', args[i])
    holder = holder and keeps(holder, args[i + 1]) and holder
    holders[#holders + 1] = holder
    taken = taken or holder
  end
  if not same or taken or (any(1) and server.call('EXISTS', items(1)) > 0) then
    local named, records = {}, {}
    if any(3) then named = server.call('MGET', items(3)) end
    for i, holder in ipairs(holders) do
      local id = holder and recorded(holder, args[first[2] + 2 * i - 1])
      records[i] = id and server.call('GET', args[5] .. id)
    end
    return { not same and server.call('HGETALL', account), named, holders, records }
  end
  if fresh == '' then return 1 end

  local kept, given_up_kept = args[8], args[9]
  server.call('HSET', account, 'token', fresh, items(4))
  if any(5) then server.call('MSET', items(5)) end
  for i = first[6], last[6], 2 do server.call('SET', args[i], args[i + 1], 'PX', given_up_kept) end
  if any(7) then server.call('MSET', items(7)) end
  for i = first[8], last[8], 2 do server.call('SET', args[i], args[i + 1], 'PX', kept) end
  if any(9) then server.call('ZADD', keys[6], items(9)) end
  if any(10) then server.call('ZADD', keys[5], items(10)) end
  if any(11) then server.call('ZREM', keys[5], items(11)) end
  if any(12) then server.call('ZADD', keys[3], items(12)) end
  if any(13) then server.call('ZREM', keys[3], items(13)) end
  if any(14) then
    local now = milliseconds()
    for i = first[14], last[14], 2 do server.call('ZADD', keys[4], now + args[i], args[i + 1]) end
  end
  if any(15) then
    local surplus = server.call('RPUSH', keys[7], items(15)) - tonumber(args[7])
    if surplus > 0 then
      for _, entry in ipairs(server.call('LPOP', keys[7], surplus)) do
        local id, client = string.match(entry, '^(%S+) (%S+)$')
        local holder = server.call('GET', args[6] .. client)
        if holder and names(holder, id) then server.call('UNLINK', args[6] .. client) end
      end
    end
  end
  if args[3] ~= '' then
    if args[4] ~= '' then
      server.call('XADD', keys[2], '*', 'e', args[3], 'p', args[4])
    else
      server.call('XADD', keys[2], '*', 'e', args[3])
    end
  end
  server.call('HGET', account, 'token')
  return 1
end

server.register_function('trade2026_commit_@VERSION@', commit)

-- KEYS: position hash. ARGV: number, quantity, last price. A position set by a later event stays.
server.register_function('trade2026_project_@VERSION@', function(keys, args)
  local number = server.call('HGET', keys[1], 'number')
  if number and tonumber(number) >= tonumber(args[1]) then return 0 end
  server.call('HSET', keys[1], 'number', args[1], 'quantity', args[2], 'last_price', args[3])
  return 1
end)

-- KEYS: watermark. ARGV: sequence. A watermark only rises.
server.register_function('trade2026_relayed_@VERSION@', function(keys, args)
  local known = server.call('GET', keys[1])
  if known and tonumber(known) >= tonumber(args[1]) then return 0 end
  server.call('SET', keys[1], args[1])
  return 1
end)

-- KEYS: lease, fence counter. ARGV: worker, milliseconds. Takes a free lease or renews one's own; answers
-- its fencing number, or 0 when another worker holds it.
server.register_function('trade2026_lease_@VERSION@', function(keys, args)
  local held = server.call('GET', keys[1])
  if held then
    local worker, number = string.match(held, '^(%S+) (%d+)$')
    if worker ~= args[1] then return 0 end
    server.call('PEXPIRE', keys[1], args[2])
    return tonumber(number)
  end
  local number = server.call('INCR', keys[2])
  server.call('SET', keys[1], args[1] .. ' ' .. number, 'PX', args[2])
  return number
end)

-- KEYS: lease. ARGV: worker. Gives up one's own lease.
server.register_function('trade2026_release_@VERSION@', function(keys, args)
  local held = server.call('GET', keys[1])
  if held and string.match(held, '^(%S+) ') == args[1] then return server.call('UNLINK', keys[1]) end
  return 0
end)

-- KEYS: deadline index. ARGV: order id, the millisecond at which it was due, a later one. Puts the order off,
-- unless its deadline has changed since.
server.register_function('trade2026_put_off_@VERSION@', function(keys, args)
  local due = server.call('ZSCORE', keys[1], args[1])
  if not due or tonumber(due) ~= tonumber(args[2]) then return 0 end
  server.call('ZADD', keys[1], args[3], args[1])
  return 1
end)

-- KEYS: ended set, outbox. ARGV: milliseconds that an ended order stays, limit. Answers ended orders that may
-- go: order id, its score, … The oldest entry of the outbox bounds them: what was committed before it has been
-- carried to the journal.
server.register_function('trade2026_ended_@VERSION@', function(keys, args)
  local latest = milliseconds() - args[1]
  local oldest = server.call('XRANGE', keys[2], '-', '+', 'COUNT', 1)[1]
  if oldest then latest = math.min(latest, tonumber(string.match(oldest[1], '^%d+')) - 1) end
  return server.call('ZRANGE', keys[1], '-inf', latest, 'BYSCORE', 'LIMIT', 0, args[2], 'WITHSCORES')
end)

-- KEYS: ended set. ARGV: record key prefix, then an order each: order id, its score in the ended set, its
-- client-id key ('' = none), what is kept there. Takes the orders out, unless they have changed since the score
-- was read; answers how many.
-- An order id is {account}-{ULID}: the account is all but its last 27 characters.
server.register_function('trade2026_retire_@VERSION@', function(keys, args)
  local index = 'orders:' .. string.match(keys[1], '{.-}') .. ':'
  local retired = 0
  for i = 2, #args, 4 do
    local id, client = args[i], args[i + 2]
    local score = server.call('ZSCORE', keys[1], id)
    if score and tonumber(score) == tonumber(args[i + 1]) then
      if client ~= '' and server.call('GET', client) == id then
        server.call('SET', client, args[i + 3], 'KEEPTTL')
      end
      server.call('UNLINK', args[1] .. id)
      server.call('ZREM', index .. string.sub(id, 1, -28), id)
      server.call('ZREM', keys[1], id)
      retired = retired + 1
    end
  end
  return retired
end)

-- KEYS: present workers. ARGV: worker, milliseconds. Answers how many workers are present, this one included.
server.register_function('trade2026_present_@VERSION@', function(keys, args)
  local time = server.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  server.call('ZADD', keys[1], now + args[2], args[1])
  server.call('ZREMRANGEBYSCORE', keys[1], '-inf', now)
  return server.call('ZCARD', keys[1])
end)

local function now_ms()
  local time = server.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- KEYS: client leases. ARGV: account, milliseconds. Renews an account's lease, which never ends earlier for it.
server.register_function('trade2026_attend_@VERSION@', function(keys, args)
  return server.call('ZADD', keys[1], 'GT', now_ms() + args[2], args[1])
end)

-- KEYS: client leases. Leases that have ended: account, the millisecond at which it did, and so on.
server.register_function('trade2026_lapsed_@VERSION@', function(keys, args)
  return server.call('ZRANGE', keys[1], '-inf', now_ms(), 'BYSCORE', 'WITHSCORES')
end)

-- KEYS: client leases. ARGV: account, millisecond. Forgets a lease unless it was renewed since.
server.register_function('trade2026_lapse_@VERSION@', function(keys, args)
  if server.call('ZSCORE', keys[1], args[1]) ~= args[2] then return 0 end
  return server.call('ZREM', keys[1], args[1])
end)
