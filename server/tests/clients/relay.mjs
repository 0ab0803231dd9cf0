// Starts the relay under test, with helpers.
//
// With RELAY_E2E_COMMAND another host than the binary is started, as for server/tests/e2e: a program with the options
// `--persist FOLDER` and `--config FILE` (JSON) that logs where it listens as the binary does, and ends on SIGTERM. With
// RELAY_URL a running relay is tested, which may have events of other tests and takes no agents of ours.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { WebSocket } from 'ws'

// Node has a built-in one since version 22.
globalThis.WebSocket ??= WebSocket

const here = dirname(fileURLToPath(import.meta.url))
export const root = join(here, '..', '..', '..')

/** The relay's binary. */
export function binary() {
  if (process.env.RELAY_BIN) return process.env.RELAY_BIN
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target')
  const found = ['debug', 'release'].map(profile => join(target, profile, 'relay')).find(existsSync)
  if (!found) throw new Error('no relay binary: cargo build -p relay-server')
  return found
}

/** The environment without what would configure the relay, or what it would refuse as unknown. */
export function withoutRelayVariables() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('RELAY_')))
}

/** Whether the host under test is not the binary. */
export const isOtherHost = Boolean(process.env.RELAY_E2E_COMMAND)

/** Why the tests of files are skipped: the Worker has files where it has a bucket, which its host gives it with `--r2`. */
export const withoutFiles = process.env.RELAY_URL
  ? 'files are uploaded to relays of our own'
  : isOtherHost && !process.env.RELAY_E2E_COMMAND.includes('--r2') && 'this host has no files without --r2'

/**
 * Starts a relay in its default configuration, on a free port over an empty folder, which is `data`. `config` is given to another
 * host than the binary; `env` are environment variables.
 */
export async function startRelay({ config, env = {} } = {}) {
  if (process.env.RELAY_URL) return { url: process.env.RELAY_URL, stop: async () => {} }
  const data = mkdtempSync(join(tmpdir(), 'relay-clients-'))
  const options = []
  if (isOtherHost && config) {
    const file = join(data, 'config.json')
    writeFileSync(file, JSON.stringify(config))
    options.push('--config', file)
  }
  const [program, ...args] = isOtherHost
    ? [...process.env.RELAY_E2E_COMMAND.split(' '), '--persist', join(data, 'state'), ...options]
    : [binary(), 'serve', '--listen', '127.0.0.1:0', '--data', data]
  const child = spawn(program, args, {
    // Not inherited: the test runner would wait for a relay that outlives this process.
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: data,
    env: { ...withoutRelayVariables(), ...env },
  })
  let log = ''
  const url = await new Promise((resolve, reject) => {
    child.on('exit', code => reject(new Error(`the relay exited with ${code}:\n${log}`)))
    const read = chunk => {
      log += chunk
      const found = log.match(/ws:\/\/127\.0\.0\.1:\d+/)
      if (found) resolve(found[0])
    }
    for (const output of [child.stdout, child.stderr]) output.on('data', read)
  })
  const exited = new Promise(resolve => child.on('exit', resolve))
  return {
    url,
    http: url.replace('ws', 'http'),
    data,
    stop: async () => {
      child.kill('SIGTERM')
      const code = await exited
      rmSync(data, { recursive: true, force: true })
      if (code !== 0) throw new Error(`the relay ended with ${code}:\n${log}`)
    },
  }
}

/** Far more than an answer takes, so that only what never comes is late. Clients' own patience is set above it. */
export const PATIENCE_MS = 15_000

/** What `promise` gives; fails when that does not come. */
export function within(what, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${PATIENCE_MS} ms`)), PATIENCE_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Waits until `holds`, or what it promises. */
export async function until(what, holds) {
  const begun = performance.now()
  while (!(await holds())) {
    if (performance.now() - begun > PATIENCE_MS) throw new Error(`${what}: not after ${PATIENCE_MS} ms`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

export const now = () => Math.floor(Date.now() / 1000)

/** A new key; each event that it signs is a second younger than the one before. */
export function author() {
  const key = generateSecretKey()
  let clock = now() - 10_000
  const sign = (template = {}, by = key) =>
    finalizeEvent({ kind: 1, created_at: clock++, tags: [], content: `note ${clock}`, ...template }, by)
  return { key, pubkey: getPublicKey(key), sign }
}

export const idsOf = events => events.map(event => event.id)

/** The real events of the shared folder, or the few of the repository where that is not at hand. */
export function realEvents() {
  const shared = process.env.RELAY_SHARED ?? join(root, '..', 'shared')
  const files = [join(shared, 'data', 'real-events.jsonl'), join(root, 'engine', 'tests', 'wire_events.jsonl')]
  if (process.env.RELAY_SHARED && !existsSync(files[0])) throw new Error(`RELAY_SHARED: no ${files[0]}`)
  const file = files.find(existsSync)
  return readFileSync(file, 'utf8').trim().split('\n').map(line => JSON.parse(line))
}
