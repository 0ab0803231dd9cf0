// The market of the real binary: what it says survives kill -9, a lost file is made again, and `relay market verify` finds lies.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, request as ask } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { npubEncode } from 'nostr-tools/nip19'
import { SimplePool } from 'nostr-tools/pool'
import { zapReceipt } from './receipts.mjs'
import { author, binary, isOtherHost, now, startRelay, until, within, withoutRelayVariables } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'its figures are of relays of our own' : false

let server, pool, provider
const publish = (...events) => within('OK', Promise.all(events.flatMap(event => pool.publish([server.url], event))))
const market = async query => await (await fetch(`${server.http}/market${query}`)).json()
const counts = entry => [entry?.figures.jobs_delivered, entry?.figures.jobs_failed, entry?.figures.distinct_customers_served]

function verify(url, ...more) {
  return new Promise(done => {
    const args = ['market', 'verify', url, npubEncode(provider.pubkey), ...more]
    execFile(binary(), args, { env: withoutRelayVariables() }, (error, stdout, stderr) => done({ code: error?.code ?? 0, stdout, stderr }))
  })
}

before(async () => {
  if (skip) return
  server = await startRelay()
  pool = new SimplePool()
  provider = author()
  const at = now() - 7200
  const customers = Array.from({ length: 4 }, author)
  const request = customer => customer.sign({ kind: 5050, created_at: at, content: '', tags: [['p', provider.pubkey]] })
  const result = (to, tags = []) => provider.sign({ kind: 6050, created_at: at + 3, content: 'done', tags: [['e', to.id], ...tags] })
  const requests = customers.map(request)
  const open = author().sign({ kind: 5050, created_at: at, content: '', tags: [] })
  const expires = ['expiration', String(now() + 4)]
  await publish(...requests, open, result(requests[0]), result(requests[1], [expires, ['amount', '7000']]), result(open))
  // The first job is paid; of the others somebody else has signed the zap request, or what has been paid for is not done.
  const demands = [0, 2].map(n => provider.sign({ kind: 7000, created_at: at + 1, content: '', tags: [['status', 'payment-required'], ['amount', '5000'], ['e', requests[n].id], expires] }))
  await publish(
    ...demands,
    zapReceipt({ customer: customers[0], provider, zapped: demands[0], msat: 5000, at: at + 2 }),
    zapReceipt({ customer: customers[1], provider, zapped: requests[1], msat: 7000, at: at + 2, signer: author() }),
    zapReceipt({ customer: customers[2], provider, zapped: demands[1], msat: 5000, at: at + 2 }),
  )
  // It announces itself after it has worked.
  await publish(provider.sign({ kind: 31990, created_at: now(), content: '{"name":"worker","amount":"3"}', tags: [['d', 'x'], ['k', '5050'], ['t', 'a']] }))
  await until('figures', async () => counts((await market('')).providers[0])[0] === 2)
})
after(async () => {
  pool?.destroy()
  await server?.stop()
})

test('figures are those of the events, also after one of them has expired', { skip }, async () => {
  const [entry] = (await market('?kind=5050&tag=A&max_msat=3000&q=WORK')).providers
  assert.deepEqual([...counts(entry), entry.online, entry.name], [2, 1, 2, false, 'worker'])
  assert.equal(entry.figures.open_requests_answered, 1)
  assert.deepEqual([entry.figures.jobs_paid, entry.figures.distinct_paying_customers, entry.figures.paid_msat, entry.figures.jobs_unpaid], [1, 1, 5000, 1])
  assert.equal(entry.figures.success_ratio_mean_of_customers, 0.666)
  const right = await verify(server.http)
  assert.equal(right.code, 0, right.stdout + right.stderr)
  await until('the end of a result', async () => {
    const events = await pool.querySync([server.url], { kinds: [6050], authors: [provider.pubkey] })
    return events.length === 2
  })
  const still = await verify(server.url, '--json')
  assert.equal(still.code, 0, still.stdout + still.stderr)
  const found = JSON.parse(still.stdout)
  assert.deepEqual([found.recomputed.jobs_delivered, found.recomputed.jobs_paid, found.recomputed.open_requests_answered, found.missing, found.left_out, found.expired], [2, 1, 1, [], [], 0])
})

test('lies are found', { skip }, async t => {
  const lies = {
    figures: proof => (proof.figures.jobs_failed = 0),
    'a job left out': proof => proof.jobs.splice(proof.jobs.findIndex(job => !job.result), 1),
    'a job called expired': proof => {
      const [job] = proof.jobs.splice(proof.jobs.findIndex(job => !job.result), 1)
      proof.expired.push(job.request)
    },
    'a forged result': proof => {
      const shown = proof.jobs.find(job => job.result?.id)
      shown.result.content = 'better'
    },
    'a forged signature': proof => {
      const shown = proof.jobs.find(job => job.result?.id)
      shown.result.sig = shown.result.sig.replace(/^../, pair => (pair === '00' ? '11' : '00'))
    },
    'a payment that nobody has signed': proof => (proof.figures.jobs_paid = 2),
    'a payment of which more was asked': proof => (proof.figures.paid_msat = 5001),
    'a payment left out, and still counted': proof => (proof.jobs.find(job => job.payment).payment = null),
    'a payment that it claims to have forgotten': proof => (proof.receipts_since = proof.as_of),
    'a receipt that nobody has': proof => (proof.jobs.find(job => job.payment).payment.receipt = 'cd'.repeat(32)),
    'a forged demand': proof => (proof.jobs.find(job => job.payment).payment.demand.content = 'cheaper'),
    'an event that nobody has': proof => (proof.jobs.find(job => typeof job.result === 'string').result = 'ab'.repeat(32)),
  }
  for (const [name, lie] of Object.entries(lies)) {
    const liar = createServer((incoming, response) => {
      ask(server.http + incoming.url, { headers: { accept: 'application/json' } }, async answer => {
        let text = ''
        for await (const piece of answer) text += piece
        const proof = JSON.parse(text)
        lie(proof)
        response.end(JSON.stringify(proof))
      }).end()
    })
    liar.on('upgrade', (incoming, socket, head) => {
      const { hostname, port } = new URL(server.http)
      const to = connect(port, hostname, () => {
        to.write(`GET / HTTP/1.1\r\n${Object.entries(incoming.headers).map(([key, value]) => `${key}: ${value}\r\n`).join('')}\r\n`)
        to.write(head)
        socket.pipe(to).pipe(socket)
      })
      for (const each of [to, socket]) each.on('error', () => {})
    })
    await new Promise(resolve => liar.listen(0, '127.0.0.1', resolve))
    t.after(() => liar.close())
    const { code, stdout, stderr } = await verify(`http://127.0.0.1:${liar.address().port}`)
    assert.ok(name.startsWith('a forged') ? code === 3 && /(id|signature) of/.test(stderr) : code === 1 && stdout.includes('WRONG'), `${name}: ${code} ${stdout} ${stderr}`)
  }
})

test('a wrong parameter is named', { skip }, async () => {
  for (const [query, field] of [['kind=1', 'kind'], ['max_msat=x', 'max_msat'], ['online=maybe', 'online'], ['sort=luck', 'sort'], ['cursor=x', 'cursor'], ['limit=1000', 'limit']]) {
    const response = await fetch(`${server.http}/market?${query}`)
    assert.deepEqual([response.status, (await response.json()).field], [400, field], query)
  }
  assert.equal((await fetch(`${server.http}/market/npub1x/proof`)).status, 400)
  assert.equal((await fetch(`${server.http}/market/${author().pubkey}/proof`)).status, 404)
  assert.equal((await verify('relay.example')).code, 2)
  assert.equal((await verify('http://127.0.0.1:1')).code, 3)
})

const onlyBinary = skip || (isOtherHost && 'another host has tests of its own')

test('figures survive kill -9, and a lost registry is made again', { skip: onlyBinary }, async t => {
  const data = mkdtempSync(join(tmpdir(), 'relay-market-'))
  let child
  const serve = async () => {
    child = spawn(binary(), ['serve', '--listen', '127.0.0.1:0', '--data', data], { stdio: ['ignore', 'ignore', 'pipe'], env: withoutRelayVariables() })
    child.exited = new Promise(resolve => child.on('exit', resolve))
    let log = ''
    child.stderr.on('data', chunk => (log += chunk))
    const found = () => log.match(/listening on ws:(\/\/127\.0\.0\.1:\d+)/)
    await until('a relay', found)
    return found()[1]
  }
  const end = async signal => {
    child.kill(signal)
    await within('its end', child.exited)
  }
  t.after(async () => {
    await end('SIGKILL')
    rmSync(data, { recursive: true, force: true })
  })
  const figures = async address => {
    const { providers } = await (await fetch(`http:${address}/market`)).json()
    return counts(providers[0])
  }
  let address = await serve()
  const [worker, customer] = [author(), author()]
  const request = customer.sign({ kind: 5050, created_at: now() - 9, content: '', tags: [['p', worker.pubkey]] })
  const events = [
    worker.sign({ kind: 31990, created_at: now(), content: '{}', tags: [['d', ''], ['k', '5050']] }),
    request,
    worker.sign({ kind: 6050, created_at: now(), content: 'done', tags: [['e', request.id]] }),
  ]
  for (const event of events) await within('OK', Promise.all(pool.publish([`ws:${address}`], event)))
  // At any moment: what has not been applied is read again.
  await end('SIGKILL')
  address = await serve()
  await until('figures', async () => (await figures(address))[0] === 1)
  await end('SIGTERM')
  for (const file of ['market.sqlite', 'market.sqlite-wal', 'market.sqlite-shm']) rmSync(join(data, file), { force: true })
  address = await serve()
  await until('figures', async () => (await figures(address))[0] === 1)
  assert.deepEqual(await figures(address), [1, 0, 1])
})
