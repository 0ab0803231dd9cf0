// The Worker's HTTP endpoints, its configuration, and its size.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { request } from 'node:http'
import { after, before, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { Client, generateSecretKey, getPublicKey, read, sign } from './client.mjs'
import { startEdge } from './host.mjs'

let edge
before(async () => {
  edge = await startEdge({ vars: { RELAY_NAME: 'a <name>' }, config: { limits: { limit_max: 123, limit_default: 12 } } })
})
after(() => edge.stop())

/** A plain HTTP request: fetch() cannot ask for a WebSocket upgrade. */
const ask = (url, init) =>
  new Promise((done, fail) => {
    const sent = request(url, { agent: false, ...init })
    sent.on('error', fail)
    sent.on('upgrade', (response, socket) => {
      socket.destroy()
      done({ status: response.statusCode, headers: response.headers })
    })
    sent.on('response', async response => {
      const body = Buffer.concat(await response.toArray()).toString()
      done({ status: response.statusCode, headers: response.headers, body })
    })
    sent.end()
  })

test('each path has its response', async () => {
  const nostr = { headers: { accept: 'application/nostr+json' } }
  for (const { method, path, headers = {}, route, status, answer = {} } of JSON.parse(read('../../site/tests/routes.json'))) {
    const socket = route === 'Socket'
    const sent = socket
      ? { ...headers, connection: 'Upgrade', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }
      : headers
    const response = await ask(edge.http + path, { method, headers: sent })
    assert.equal(response.status, status, `${method} ${path}`)
    for (const [name, want] of Object.entries(answer)) {
      assert.equal(response.headers[name] ?? null, want, `${name} of ${method} ${path}`)
    }
  }
  const metrics = await fetch(`${edge.http}/metrics`)
  assert.equal(metrics.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  assert.deepEqual(await (await fetch(`${edge.http}/else`)).json(), { error: 'not found' })
  const about = await (await fetch(edge.http, nostr)).json()
  assert.equal(about.name, 'a <name>')
  assert.equal(about.limitation.max_limit, 123)
  const page = await (await fetch(edge.http)).text()
  assert.ok(page.includes('a &lt;name&gt;') && page.includes('up to 123, 12 if no limit is given'))
  assert.deepEqual(Object.keys(await (await fetch(`${edge.http}/health`)).json()).toSorted(), [
    'events', 'shards', 'status', 'store_bytes', 'version',
  ])
})

test('secrets: NIP-11 shows the public key of the relay, and administrators may write', async () => {
  const admin = generateSecretKey()
  const own = await startEdge({
    vars: { RELAY_PRIVATE_KEY: '0'.repeat(63) + '3', ADMIN_PUBKEYS: getPublicKey(admin) },
    config: { policy: { allow_pubkeys: [] } },
  })
  const about = await (await fetch(own.http, { headers: { accept: 'application/nostr+json' } })).json()
  assert.equal(about.self, 'f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9')
  const client = await Client.open(own.url)
  assert.deepEqual(await client.publish(sign({}, admin)), [true, ''])
  assert.match((await client.publish(sign({}, generateSecretKey())))[1], /^restricted: /)
  client.close()
  await own.stop()
})

/** A NIP-98 Authorization header for a GET. */
const signed = (url, by) => {
  const event = sign({ kind: 27235, tags: [['u', url], ['method', 'GET']] }, by)
  return { authorization: `Nostr ${Buffer.from(JSON.stringify(event)).toString('base64')}` }
}

test('metrics require the token or an administrator, the configuration requires an administrator', async () => {
  const admin = generateSecretKey()
  const vars = { METRICS_TOKEN: 's3cret', ADMIN_PUBKEYS: getPublicKey(admin) }
  const own = await startEdge({ vars, config: { limits: { limit_max: 321, limit_default: 12 } } })
  const get = async (path, headers = {}) => {
    const response = await fetch(own.http + path, { headers })
    return [response.status, await response.text(), response]
  }
  const [status, , response] = await get('/metrics')
  assert.deepEqual([status, response.headers.get('www-authenticate')], [401, 'Bearer, Nostr'])
  assert.equal((await get('/metrics', { authorization: 'Bearer wrong' }))[0], 401)
  assert.match((await get('/metrics', { authorization: 'Bearer s3cret' }))[1], /relay_shard_up/)
  const once = signed(`${own.http}/metrics`, admin)
  assert.equal((await get('/metrics', once))[0], 200)
  assert.deepEqual(JSON.parse((await get('/metrics', once))[1]), { error: 'the event has been used: each authorises one request' })
  assert.equal((await get('/metrics', signed(`${own.http}/metrics`, generateSecretKey())))[0], 403)
  assert.equal((await get('/metrics?all', signed(`${own.http}/metrics`, admin)))[0], 401)

  assert.equal((await get('/relay/config.json', { authorization: 'Bearer s3cret' }))[0], 401)
  const [found, text] = await get('/relay/config.json', signed(`${own.http}/relay/config.json`, admin))
  assert.equal(found, 200, text)
  const config = JSON.parse(text)
  assert.deepEqual([config.limits.limit_max, config.policy.admin_pubkeys, config.host.placement.shards], [321, [getPublicKey(admin)], 1])
  assert.ok(!text.includes('s3cret'))
  await own.stop()
})

test('an invalid configuration is an error', async () => {
  const wrong = await startEdge({ config: { limits: { no_such_limit: 1 } } })
  const response = await fetch(wrong.http)
  assert.equal(response.status, 500)
  assert.match((await response.json()).error, /^RELAY_CONFIG: limits\.no_such_limit: unknown field/)
  await assert.rejects(Client.open(wrong.url))
  await wrong.stop()
})

test('every metric is summed and listed by shard', async () => {
  const client = await Client.open(edge.url)
  await client.rest()
  const text = await (await fetch(`${edge.http}/metrics`)).text()
  for (const line of ['relay_connections 1', 'relay_connections_by_shard{shard="0000"} 1', 'relay_shard_up{shard="0000"} 1']) {
    assert.ok(text.split('\n').includes(line), `${line} in\n${text}`)
  }
  await client.close()
})

test('the script is small', () => {
  const wasm = read('../build/index_bg.wasm')
  const compressed = gzipSync(wasm).length
  console.log(`wasm: ${wasm.length} bytes, ${compressed} as gzip`)
  // The platform takes 64 MiB, formerly 3 MB compressed. What a start costs is in startup_cost.test.mjs.
  // Agents, with their manifests, executors, ciphers and signing, are 2 MB of it; Blossom is one; payments with refunds and copies of
  // other relays are two thirds of one; the market is 0.4.
  assert.ok(wasm.length < 9_900_000, `${wasm.length} bytes`)
  assert.ok(compressed < 4_200_000, `${compressed} bytes`)
})

test('wrangler parses wrangler.toml and lists every binding', () => {
  const root = new URL('../..', import.meta.url).pathname
  const wrangler = new URL('../node_modules/wrangler/bin/wrangler.js', import.meta.url).pathname
  for (const env of [[], ['--env', 'dev']]) {
    const args = [wrangler, 'deploy', '--dry-run', '--outdir', `${root}target/edge/dry-run`, ...env]
    const output = execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8' })
    for (const binding of ['RELAY', 'AGENT', 'BLOSSOM', 'MARKET', 'BLOBS', 'RELAY_NAME', 'RELAY_DESCRIPTION', 'RELAY_PUBKEY']) {
      assert.ok(output.includes(`env.${binding} `), `${binding} in\n${output}`)
    }
  }
})
