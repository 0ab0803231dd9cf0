// Agents in workerd: deployed over HTTP, asked over a WebSocket, whatever loses its memory in between.
import assert from 'node:assert/strict'
import { createServer, request as httpRequest } from 'node:http'
import { after, before, test } from 'node:test'
import { ECHO, answers, api, ask, authorization, counting, deploy, request, vars, watch } from './agents_client.mjs'
import { Client, generateSecretKey, getPublicKey, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

/** A program of an owner's, and one that nobody may reach. */
const hits = { hook: [], secret: 0 }
const hook = createServer(async (request, response) => {
  const body = Buffer.concat(await request.toArray()).toString()
  hits.hook.push({ url: request.url, headers: request.headers, body })
  if (request.url === '/redirect') return response.writeHead(302, { location: `http://127.0.0.1:${secret.address().port}/` }).end()
  if (request.url === '/flood') return response.end('x'.repeat(3_000_000))
  if (request.url === '/hang') return
  response.setHeader('content-type', 'application/json').end(JSON.stringify({ content: JSON.parse(body).inputs[0].text + '!' }))
})
const secret = createServer((_, response) => {
  hits.secret += 1
  response.end('secret')
})

let edge, client
before(async () => {
  for (const server of [hook, secret]) await new Promise(done => server.listen(0, '127.0.0.1', done))
  const agents = { allow_private_hosts: [`127.0.0.1:${hook.address().port}`], agents_max: 20 }
  // What the market costs is counted in market.test.mjs.
  const config = { agents, market: { enabled: false } }
  edge = await startEdge({ vars, config, main: counting })
  client = await Client.open(edge.url)
})
after(async () => {
  await client.close()
  await edge.stop()
  for (const server of [hook, secret]) {
    server.closeAllConnections()
    server.close()
  }
})

const counts = async () => (await fetch(`${edge.http}/counts`)).json()
/** The counts once nothing has been counted for a while. */
const countsAtRest = async () => {
  for (let before; ; ) {
    const now = await counts()
    if (JSON.stringify(now) === before) return now
    before = JSON.stringify(now)
    await sleep(1_500)
  }
}

test('hello, agent', async () => {
  const agent = await deploy(edge, ECHO)
  assert.equal(agent.state, 'active')
  assert.deepEqual(await ask(client, request(agent, 'hello')), ['processing', 'result: hello'])
})

test('a job takes two requests to its agent, one if others follow, and an idle agent none', async () => {
  const agent = await deploy(edge, ECHO)
  // Half a minute after a deployment one alarm checks that the agent is announced, and sets the alarm that renews the
  // announcement days later; setting it is billed as a row. It is waited for, so that it is not counted below.
  while (!(await counts())['agent alarm']) await sleep(500)
  // The relay's heartbeats begin with multiples of four minutes, and are not what is counted here.
  const left = 240_000 - (Date.now() % 240_000)
  if (left < 40_000) await sleep(left + 2_000)
  // The first job of an object also writes what all later ones share.
  assert.deepEqual(await ask(client, request(agent, 'first')), ['processing', 'result: first'])
  const begun = await countsAtRest()
  assert.deepEqual(await ask(client, request(agent, 'one')), ['processing', 'result: one'])
  const alone = await countsAtRest()
  const since = (now, then, name) => (now[name] ?? 0) - (then[name] ?? 0)
  assert.equal(since(alone, begun, 'agent/deliver'), 2)
  const jobs = 40
  for (let n = 0; n < jobs; n++) await ask(client, request(agent, `${n}`))
  const many = await countsAtRest()
  const each = name => since(many, alone, name) / jobs
  console.log(`object requests for a job: 2 alone, ${each('agent/deliver')} of ${jobs} one after the other`)
  console.log(`rows written for a job alone: ${since(alone, begun, 'agent rows')} by the agent, ${since(alone, begun, 'relay rows')} by the relay`)
  console.log(`rows written for one of many: ${each('agent rows')} by the agent, ${each('relay rows')} by the relay`)
  console.log(`rows read for one of many: ${each('agent rows read')} by the agent, ${each('relay rows read')} by the relay`)
  // One confirmation at the end is for all of them. `bench/edge.md` says what this costs.
  assert.ok(each('agent/deliver') <= 1 + 1 / jobs, `${each('agent/deliver')} requests`)
  // The job and the indexes of its id and of its customer, into the outbox and out of it, the counters.
  assert.equal(since(alone, begun, 'agent rows'), 6)
  assert.ok(each('agent rows') <= 6, `${each('agent rows')} rows`)
  // The request, its answers together, and the router's position; a page of keys once in some hundred jobs.
  assert.equal(since(alone, begun, 'relay rows'), 3)
  assert.ok(each('relay rows') <= 3.05, `${each('relay rows')} rows`)
  assert.ok(each('agent rows read') + each('relay rows read') <= 7, 'rows read, which cost a thousandth')
  assert.equal(since(many, begun, 'agent alarms set'), 0, 'it needs no alarm')
  await sleep(3_000)
  const idle = await counts()
  const counted = name => /^agent|^relay.agents|rows$/.test(name)
  const same = Object.keys(idle).filter(counted)
  for (const name of ['agent/deliver', 'agent alarm', 'agent rows', 'relay rows']) assert.ok(same.includes(name), name)
  for (const name of same) assert.equal(idle[name], many[name], name)
})

test('the API: who may do what, and what is found where', async () => {
  const stranger = generateSecretKey()
  const manifest = { name: 'api', about: 'It <b>echoes</b>', handlers: [{ kind: 5051, executor: 'echo' }] }
  assert.equal((await api(edge, 'POST', '/agents', { body: manifest, by: null })).status, 401)
  assert.equal((await api(edge, 'POST', '/agents', { body: manifest, by: stranger })).status, 403)
  const wrong = await api(edge, 'POST', '/agents', { body: { ...manifest, handlers: [{ kind: 1, executor: 'echo' }] } })
  assert.deepEqual([wrong.status, wrong.json.field], [400, 'handlers[0].kind'], wrong.text)
  const huge = await api(edge, 'POST', '/agents', { body: { ...manifest, about: 'x'.repeat(70_000) } })
  assert.equal(huge.status, 413)
  const agent = await deploy(edge, manifest)
  const same = await api(edge, 'POST', '/agents', { body: manifest })
  assert.deepEqual([same.status, same.json.version], [200, 1])

  const list = await api(edge, 'GET', '/agents', { by: null })
  assert.ok(list.json.agents.some(({ npub, name }) => npub === agent.npub && name === 'api'), list.text)
  assert.equal(list.headers.get('access-control-allow-origin'), '*')
  const page = await api(edge, 'GET', '/agents', { by: null, headers: { accept: 'text/html' } })
  assert.match(page.headers.get('content-type'), /text\/html/)
  assert.ok(page.text.includes('It &lt;b&gt;echoes&lt;/b&gt;'))
  const names = await api(edge, 'GET', '/.well-known/nostr.json?name=api', { by: null })
  assert.deepEqual(names.json.names, { api: agent.pubkey })
  for (const path of [`/agents/${agent.npub}`, `/agents/${agent.pubkey}`, `/agent/${agent.npub}/manifest.json`, `/agent/${agent.npub}`]) {
    assert.equal((await api(edge, 'GET', path, { by: null })).status, 200, path)
  }
  assert.equal((await api(edge, 'GET', '/agents/npub1nonsense', { by: null })).status, 400)
  assert.equal((await api(edge, 'GET', `/agents/${getPublicKey(stranger)}`, { by: null })).status, 404)

  const job = request(agent, 'for the history', { kind: 5051 })
  assert.deepEqual(await ask(client, job), ['processing', 'result: for the history'])
  assert.equal((await api(edge, 'GET', `/agent/${agent.npub}/history`, { by: null })).status, 401)
  const history = await api(edge, 'GET', `/agent/${agent.npub}/history/${job.id}`)
  assert.equal(history.status, 200, history.text)
  for (const path of ['history', 'sessions', 'memory', 'metrics']) {
    assert.equal((await api(edge, 'GET', `/agent/${agent.npub}/${path}`)).status, 200, path)
  }
  assert.equal((await api(edge, 'GET', `/agents/${agent.npub}/logs`)).status, 200)
  assert.equal((await api(edge, 'GET', `/agents/${agent.npub}/export`, { by: stranger })).status, 403)

  const paused = await api(edge, 'POST', `/agents/${agent.npub}/pause`)
  assert.deepEqual([paused.status, paused.json.state], [200, 'paused'], paused.text)
  assert.equal((await api(edge, 'POST', `/agents/${agent.npub}/resume`)).json.state, 'active')
  const updated = await api(edge, 'PUT', `/agents/${agent.npub}`, { body: { ...manifest, about: 'another' } })
  assert.deepEqual([updated.status, updated.json.version], [200, 2], updated.text)
  assert.equal((await api(edge, 'PUT', `/agents/${agent.npub}`, { body: { ...manifest, name: 'else' } })).status, 409)
  assert.equal((await api(edge, 'DELETE', `/agents/${agent.npub}`, { by: stranger })).status, 403)
  assert.equal((await api(edge, 'DELETE', `/agents/${agent.npub}`)).status, 200)
  assert.ok(!(await api(edge, 'GET', '/agents')).text.includes(agent.npub))
  for (let tries = 0; tries < 40; tries++) {
    if ((await client.req(`found ${tries}`, { kinds: [31990], authors: [agent.pubkey] })).length === 0) return
    await sleep(50)
  }
  assert.fail('its announcement is still there')
})

/** The status of the response to a request of whose body one byte is sent, and no more. */
const statusAfterFirstByte = (method, path, by) =>
  new Promise((done, fail) => {
    const headers = { ...authorization(method, edge.http + path, by, 'x'), 'content-length': '60000' }
    const sent = httpRequest(edge.http + path, { method, headers, agent: false }, response => {
      done(response.statusCode)
      sent.destroy()
    })
    sent.on('error', fail)
    sent.setTimeout(5_000, () => sent.destroy(new Error(`${method} ${path}: it waits for the body`)))
    sent.write('{')
  })

test('strangers are refused before their bodies are taken', async () => {
  const agent = await deploy(edge, { ...ECHO, name: 'guarded' })
  const stranger = generateSecretKey()
  assert.equal(await statusAfterFirstByte('POST', '/agents', stranger), 403)
  assert.equal(await statusAfterFirstByte('PUT', `/agents/${agent.npub}`, stranger), 403)
  assert.equal(await statusAfterFirstByte('POST', `/agents/${agent.npub}/import`, stranger), 403)
  assert.equal(await statusAfterFirstByte('POST', `/agents/${getPublicKey(stranger)}/import`, stranger), 404)
  await assert.rejects(statusAfterFirstByte('PUT', `/agents/${agent.npub}`), /waits for the body/)
})

test('a signed command is carried out once, whichever isolate brings it again', async () => {
  const agent = await deploy(edge, ECHO)
  const objects = await edge.miniflare.getDurableObjectNamespace('AGENT')
  const object = objects.get(objects.idFromName(agent.npub))
  const created_at = Math.floor(Date.now() / 1_000)
  // As isolates that know nothing of each other's requests send it.
  const command = async (id, key = vars.ADMIN_PUBKEYS) => {
    const by = { key, is_admin: key === vars.ADMIN_PUBKEYS, signed: { id, created_at } }
    const head = { route: 'Command', id: 'pause', query: '', relay_name: '', relay_url: edge.url, ...by }
    const sent = await object.fetch('https://object/agents/api', { method: 'POST', body: `${JSON.stringify(head)}\n` })
    return [sent.status, await sent.text()]
  }
  const [first, second, third] = ['1a', '2b', '3c'].map(byte => byte.repeat(32))
  assert.equal((await command(first))[0], 200)
  const [status, text] = await command(first)
  assert.equal(status, 401)
  assert.match(text, /has been used/)
  assert.equal((await command(second))[0], 200, 'another one')
  assert.ok(await edge.evict(agent.npub, 'AgentDurableObject'))
  assert.equal((await command(first))[0], 401, 'also after it has left memory')
  // What a stranger signs is refused, and takes no place.
  assert.equal((await command(third, getPublicKey(generateSecretKey())))[0], 403)
  assert.equal((await command(third))[0], 200)
})

test('a log is followed', async () => {
  const agent = await deploy(edge, { ...ECHO, name: 'logged' })
  const response = await fetch(`${edge.http}/agents/${agent.npub}/logs?follow=1`, {
    headers: authorization('GET', `${edge.http}/agents/${agent.npub}/logs?follow=1`),
  })
  assert.equal(response.status, 200)
  const lines = []
  const reading = (async () => {
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      lines.push(...chunk.split('\n').filter(line => line).map(line => JSON.parse(line)))
      if (lines.some(({ message }) => message.includes('paused'))) break
    }
  })()
  await sleep(300)
  const before = lines.length
  assert.ok(before >= 1, 'what was there')
  await api(edge, 'POST', `/agents/${agent.npub}/pause`)
  await reading
  assert.ok(lines.length > before)
  assert.deepEqual(lines.map(({ number }) => number), lines.map(({ number }) => number).toSorted((a, b) => a - b))
  assert.equal((await api(edge, 'GET', `/agents/${agent.npub}/logs?follow=1`, { by: generateSecretKey() })).status, 403)
})

test('an agent is announced, has heartbeats and answers pings', async () => {
  const agent = await deploy(edge, { ...ECHO, name: 'lively' })
  for (let tries = 0; ; tries++) {
    const found = await client.req(`alive ${tries}`, { kinds: [0, 31990, 11998], authors: [agent.pubkey] })
    if (found.length === 3) break
    assert.ok(tries < 100, `kinds ${found.map(({ kind }) => kind)}`)
    await sleep(50)
  }
  const ping = sign({ kind: 7007, tags: [['p', agent.pubkey]], content: '' })
  client.send('REQ', 'pong', { kinds: [7000], '#e': [ping.id] })
  assert.deepEqual(await client.publish(ping), [true, ''])
  const pong = await client.event('pong')
  assert.ok(pong.tags.some(([name, value]) => name === 'status' && value === 'pong'))
})

test('jobs are answered once while agent and relay lose their memory', async () => {
  const agent = await deploy(edge, { ...ECHO, name: 'sturdy', limits: { per_customer_per_min: 1000 } })
  let evictions = 0
  for (let n = 0; n < 30; n++) {
    const job = request(agent, `${n}`)
    watch(client, job)
    assert.deepEqual(await client.publish(job), [true, ''])
    // Between OK and the delivery, during it, or after it.
    if (n % 3 === 0) await sleep(n / 3)
    const what = n % 2 ? ['relay-0000', 'RelayDurableObject'] : [agent.npub, 'AgentDurableObject']
    if (await edge.evict(...what)) evictions += 1
    // Any message wakes the relay; without one its alarm does within a minute.
    client.send('REQ', `wake ${n}`, { ids: [] })
    assert.deepEqual(await answers(client, job), ['processing', `result: ${n}`])
  }
  assert.ok(evictions > 20, `${evictions} evictions`)
  await sleep(1_500)
  const stored = await client.req('all', { kinds: [7000, 6050], authors: [agent.pubkey], limit: 500 })
  assert.equal(stored.length, 60)
})

test('an accepted job reaches its agent by the alarm alone', async () => {
  const agent = await deploy(edge, { ...ECHO, name: 'patient' })
  const job = request(agent, 'patience')
  assert.deepEqual(await client.publish(job), [true, ''])
  await edge.evict()
  await edge.evict(agent.npub, 'AgentDurableObject')
  const before = Date.now()
  for (;;) {
    await sleep(2_000)
    if (((await counts())['agent/deliver'] ?? 0) && (await api(edge, 'GET', `/agent/${agent.npub}/history/${job.id}`)).status === 200) break
    assert.ok(Date.now() - before < 90_000, 'not within 90 seconds')
  }
  const found = await client.req('patience', { kinds: [6050], '#e': [job.id] })
  assert.equal(found.length, 1)
})

test('a program of the owner does the work; redirects to other private addresses are not followed', async () => {
  const url = path => `http://127.0.0.1:${hook.address().port}${path}`
  const hooked = (name, path, limits = {}) =>
    deploy(edge, { name, handlers: [{ kind: 5100, executor: 'webhook', config: { url: url(path) } }], limits })
  const job = (agent, draft = {}) => request(agent, 'work', { kind: 5100, ...draft })
  const good = await hooked('hook', '/work')
  assert.deepEqual(await ask(client, job(good)), ['processing', 'result: work!'])
  assert.equal(hits.hook.at(-1).headers.authorization.slice(0, 6), 'Nostr ')

  const redirected = await hooked('redirected', '/redirect', { attempts: 1 })
  assert.match((await ask(client, job(redirected))).at(-1), /^error: /)
  const flood = await hooked('flood', '/flood', { attempts: 1 })
  assert.match((await ask(client, job(flood))).at(-1), /^error: /)
  const hanging = await hooked('hanging', '/hang', { attempts: 1, timeout_s: 2 })
  assert.equal((await ask(client, job(hanging))).at(-1), 'error: the work took longer than 2 s')
  assert.equal(hits.secret, 0)

  // Other private addresses are refused, also as an input.
  const other = `http://127.0.0.1:${secret.address().port}/`
  const refused = await api(edge, 'POST', '/agents', {
    body: { name: 'refused', handlers: [{ kind: 5100, executor: 'webhook', config: { url: other } }], limits: { attempts: 1 } },
  })
  if (refused.status < 300) assert.match((await ask(client, job(refused.json))).at(-1), /^error: /)
  const reader = await deploy(edge, ECHO)
  for (const input of [other, `https://127.0.0.1:${secret.address().port}/`, 'https://localhost/', 'https://[::1]/']) {
    const told = await ask(client, request(reader, input, { tags: [['p', reader.pubkey], ['i', input, 'url']] }))
    assert.match(told.at(-1), /^error: /, input)
  }
  assert.equal(hits.secret, 0)
})

test('a model of Workers AI does the work', async () => {
  const model = name => ({ kind: 5200, executor: 'workers_ai', config: { model: name } })
  const agent = await deploy(edge, { name: 'model', handlers: [model('@cf/test/model')] })
  assert.deepEqual(await ask(client, request(agent, 'say it', { kind: 5200 })), ['processing', 'result: SAY IT'])
  const none = await deploy(edge, { name: 'no model', handlers: [model('@cf/test/none')], limits: { attempts: 1 } })
  assert.match((await ask(client, request(none, 'say it', { kind: 5200 }))).at(-1), /^error: /)
})

test('no more agents than the operator allows', async () => {
  let last
  for (let n = 0; n < 20; n++) {
    last = await api(edge, 'POST', '/agents', { body: { ...ECHO, name: `many ${n}`, announce: false } })
    if (last.status !== 201) break
  }
  assert.deepEqual([last.status, last.json], [409, { error: 'this relay has 20 agents, the most that it takes' }])
})
