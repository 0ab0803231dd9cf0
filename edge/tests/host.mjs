// The Worker in local workerd, for tests and benchmarks.
//
//   node host.mjs [--r2] [--port PORT] [--persist DIR] [--config FILE]
//
// runs it in bare workerd, without Miniflare or wrangler, until it gets SIGTERM or SIGINT, with the secrets of agents
// (AGENT_...) in the environment; with --r2 likewise in Miniflare, which has a bucket, so that there are blobs. startEdge() runs it in
// Miniflare, which can also evict objects and open their bindings.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const build = join(dirname(fileURLToPath(import.meta.url)), '..', 'build')
const COMPATIBILITY_DATE = '2026-11-01'

/** Options of a Miniflare that runs the Worker as wrangler.toml describes it. */
function options({ port = 0, persist, config, vars = {}, main, objects = {} }, convert) {
  const entry = main && { type: 'ESModule', path: join(build, 'main.js'), contents: main }
  const converted = convert({
    name: 'openagents-relay',
    host: '127.0.0.1',
    port,
    modules: [
      ...(entry ? [entry] : []),
      { type: 'ESModule', path: join(build, 'index.js') },
      { type: 'CompiledWasm', path: join(build, 'index_bg.wasm') },
    ],
    modulesRoot: build,
    compatibilityDate: COMPATIBILITY_DATE,
    durableObjects: {
      RELAY: { className: 'RelayDurableObject', useSQLite: true },
      AGENT: { className: 'AgentDurableObject', useSQLite: true },
      BLOSSOM: { className: 'BlossomDurableObject', useSQLite: true },
      MARKET: { className: 'MarketDurableObject', useSQLite: true },
      ...objects,
    },
    r2Buckets: { BLOBS: 'blobs' },
    bindings: { RELAY_NAME: 'openagents-relay', ...(config ? { RELAY_CONFIG: config } : {}), ...vars },
  })
  // The conversion drops it.
  if (persist) converted.resourcePersistencePath = persist
  return converted
}

/** Starts the Worker in Miniflare; `config` is what RELAY_CONFIG says, as an object; `main` replaces its entry;
 * `objects` are bindings of Durable Objects that it exports. */
export async function startEdge(given = {}) {
  const { Miniflare, convertV4MiniflareOptions } = await import('miniflare')
  const miniflare = new Miniflare(options(given, convertV4MiniflareOptions))
  const ready = await miniflare.ready
  return {
    miniflare,
    url: `ws://127.0.0.1:${ready.port}`,
    http: `http://127.0.0.1:${ready.port}`,
    /** Drops all memory of an object, whatever it is doing; sockets stay open. False if it is not in memory. */
    evict: async (name = 'relay-0000', className = 'RelayDurableObject') => {
      const object = { name, webSockets: 'hibernate' }
      try {
        await miniflare.unsafeEvictDurableObject('openagents-relay', className, object)
        return true
      } catch (error) {
        if (/not currently running/.test(error.message)) return false
        throw error
      }
    },
    stop: () => miniflare.dispose(),
  }
}

/** The native relay's binary. `cargo xtask test` names it. */
export function serverBinary() {
  // The Worker's own target folder is another.
  const target = fileURLToPath(new URL('../../target', import.meta.url))
  const places = [process.env.RELAY_BIN, join(target, 'debug', 'relay'), join(target, 'release', 'relay')]
  const found = places.find(place => place && existsSync(place))
  if (!found) throw new Error('no relay binary: cargo build -p relay-server')
  return found
}

/** The binary that the package `workerd` of miniflare brings. */
function workerdBinary() {
  const miniflare = createRequire(import.meta.url).resolve('miniflare')
  return createRequire(miniflare)('workerd').default
}

const text = value => JSON.stringify(value)

/** Names of the secrets of agents in the environment. */
const secrets = () => Object.keys(process.env).filter(name => /^AGENT_[A-Z0-9_]+$/.test(name))

/** A configuration of workerd itself, in Cap'n Proto's text form. */
function workerdConfig({ port, persist, config }) {
  const bindings = [
    '(name = "RELAY", durableObjectNamespace = "RelayDurableObject")',
    '(name = "AGENT", durableObjectNamespace = "AgentDurableObject")',
    '(name = "MARKET", durableObjectNamespace = "MarketDurableObject")',
    '(name = "RELAY_NAME", text = "openagents-relay")',
  ]
  if (config) bindings.push(`(name = "RELAY_CONFIG", json = ${text(text(config))})`)
  // The master secret, of which the keys of agents are derived on the server too, and those that manifests name.
  for (const name of secrets()) {
    bindings.push(`(name = "${name}", fromEnvironment = "${name}")`)
  }
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "relay", worker = .relay), (name = "disk", disk = (path = ${text(persist)}, writable = true)) ],
  sockets = [ (name = "http", address = "127.0.0.1:${port}", http = (), service = "relay") ],
);
const relay :Workerd.Worker = (
  modules = [
    (name = "index.js", esModule = embed "build/index.js"),
    (name = "index_bg.wasm", wasm = embed "build/index_bg.wasm"),
  ],
  compatibilityDate = "${COMPATIBILITY_DATE}",
  durableObjectNamespaces = [
    (className = "RelayDurableObject", uniqueKey = "relay", enableSql = true),
    (className = "AgentDurableObject", uniqueKey = "agent", enableSql = true),
    (className = "MarketDurableObject", uniqueKey = "market", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [ ${bindings.join(', ')} ],
);
`
}

/** Starts the Worker in bare workerd; `folder` holds the build of another Worker to run instead. */
export async function startWorkerd({ port = 0, persist, config, folder: built = build } = {}) {
  const scratch = mkdtempSync(join(tmpdir(), 'relay-edge-'))
  const folder = resolve(persist ?? join(scratch, 'state'))
  mkdirSync(folder, { recursive: true })
  const file = join(scratch, 'config.capnp')
  // It embeds only what lies below it.
  symlinkSync(built, join(scratch, 'build'))
  writeFileSync(file, workerdConfig({ port, persist: folder, config }))
  const args = ['serve', '--control-fd=3', file]
  const child = spawn(workerdBinary(), args, { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] })
  const exited = new Promise(done => child.on('exit', done))
  const found = await new Promise((done, fail) => {
    exited.then(code => fail(new Error(`workerd ended with ${code}`)))
    let output = ''
    child.stdio[3].on('data', chunk => {
      output += chunk
      for (const line of output.split('\n')) {
        if (line.includes('"listen"')) done(JSON.parse(line).port)
      }
    })
  })
  return {
    url: `ws://127.0.0.1:${found}`,
    http: `http://127.0.0.1:${found}`,
    pid: child.pid,
    // On SIGTERM it would wait for every socket to close; acknowledged events are on disk anyway.
    stop: async () => {
      child.kill('SIGKILL')
      await exited
      rmSync(scratch, { recursive: true, force: true })
    },
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = Object.fromEntries(
    process.argv.slice(2).flatMap((arg, i, all) => (arg.startsWith('--') ? [[arg.slice(2), all[i + 1]]] : [])),
  )
  const config = args.config ? JSON.parse(readFileSync(args.config, 'utf8')) : undefined
  const start = Object.hasOwn(args, 'r2') ? startEdge : startWorkerd
  const vars = Object.fromEntries(secrets().map(name => [name, process.env[name]]))
  const relay = await start({ port: Number(args.port ?? 0), persist: args.persist, config, vars })
  console.error(`listening on ${relay.url} (process ${relay.pid ?? process.pid})`)
  for (const signal of ['SIGTERM', 'SIGINT']) {
    // Miniflare would end the process by itself, as if that were a failure.
    process.removeAllListeners(signal)
    process.on(signal, async () => {
      await relay.stop()
      process.exit(0)
    })
  }
}
