// Starts the relay under test, or takes the one that RELAY_URL names (which may keep what other tests left).
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import WebSocket from 'ws'
import { useWebSocketImplementation } from 'nostr-tools/relay'
import { useWebSocketImplementation as usePoolWebSocket } from 'nostr-tools/pool'

useWebSocketImplementation(WebSocket)
usePoolWebSocket(WebSocket)

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..', '..')

function binary() {
  if (process.env.RELAY_BIN) return process.env.RELAY_BIN
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target')
  const found = ['debug', 'release'].map(profile => join(target, profile, 'relay')).find(existsSync)
  if (!found) throw new Error('no relay binary: cargo build -p relay-server')
  return found
}

/** The environment without what would configure the relay, or what it would refuse as unknown. */
function withoutRelayVariables() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('RELAY_')))
}

/** Starts a relay on a free port over an empty folder. */
export async function startRelay(args = []) {
  if (process.env.RELAY_URL) return { url: process.env.RELAY_URL, stop: async () => {} }
  const data = mkdtempSync(join(tmpdir(), 'relay-nostr-tools-'))
  const child = spawn(binary(), ['serve', '--listen', '127.0.0.1:0', '--data', data, ...args], {
    stdio: ['ignore', 'inherit', 'pipe'],
    cwd: data,
    env: withoutRelayVariables(),
  })
  let log = ''
  const url = await new Promise((resolve, reject) => {
    child.on('exit', code => reject(new Error(`the relay exited with ${code}:\n${log}`)))
    child.stderr.on('data', chunk => {
      log += chunk
      const found = log.match(/ws:\/\/127\.0\.0\.1:\d+/)
      if (found) resolve(found[0])
    })
  })
  const exited = new Promise(resolve => child.on('exit', resolve))
  return {
    url,
    stop: async () => {
      child.kill('SIGTERM')
      const code = await exited
      rmSync(data, { recursive: true, force: true })
      if (code !== 0) throw new Error(`the relay ended with ${code}:\n${log}`)
    },
  }
}

/** The real events of the shared folder, or the few of the repository where that is not at hand. */
export function realEvents() {
  const shared = process.env.RELAY_SHARED ?? join(root, '..', 'shared')
  const files = [join(shared, 'data', 'real-events.jsonl'), join(root, 'engine', 'tests', 'wire_events.jsonl')]
  if (process.env.RELAY_SHARED && !existsSync(files[0])) throw new Error(`RELAY_SHARED: no ${files[0]}`)
  const file = files.find(existsSync)
  return readFileSync(file, 'utf8').trim().split('\n').map(line => JSON.parse(line))
}

/** Answers' order by NIP-01. */
export const newestFirst = (a, b) => b.created_at - a.created_at || (a.id < b.id ? -1 : 1)

/** The stored answer to a subscription, as an array in the order received. */
export function stored(relay, filters) {
  return new Promise((resolve, reject) => {
    const events = []
    const sub = relay.subscribe(filters, {
      onevent: event => events.push(event),
      oneose: () => {
        resolve(events)
        sub.close()
      },
      onclose: reason => reject(new Error(reason)),
      eoseTimeout: 20_000,
    })
  })
}
