// The Worker in local workerd: what the tests, the benches and `cargo xtask edge dev` talk to.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Miniflare, convertV4MiniflareOptions } from 'miniflare'

const edge = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Options of a Miniflare that runs the Worker as wrangler.toml describes it. */
function options({ port = 0, persist, config, vars = {} }) {
  const v4 = {
    name: 'openagents-relay',
    host: '127.0.0.1',
    port,
    modules: [
      { type: 'ESModule', path: join(edge, 'build/index.js') },
      { type: 'CompiledWasm', path: join(edge, 'build/index_bg.wasm') },
    ],
    modulesRoot: join(edge, 'build'),
    compatibilityDate: '2026-11-01',
    durableObjects: { RELAY: { className: 'RelayDurableObject', useSQLite: true } },
    d1Databases: { REGISTRY: 'registry' },
    r2Buckets: { BLOBS: 'blobs' },
    kvNamespaces: { CACHE: 'cache' },
    bindings: { RELAY_NAME: 'openagents-relay', ...(config ? { RELAY_CONFIG: config } : {}), ...vars },
    unsafeEphemeralDurableObjects: false,
  }
  const converted = convertV4MiniflareOptions(v4)
  if (persist) converted.resourcePersistencePath = persist
  return converted
}

/** Starts the Worker; `config` is what RELAY_CONFIG says, as an object. */
export async function startEdge(given = {}) {
  const miniflare = new Miniflare(options(given))
  const ready = await miniflare.ready
  return { miniflare, url: `ws://127.0.0.1:${ready.port}`, stop: () => miniflare.dispose() }
}

// As a program: node host.mjs [--port PORT] [--persist DIR] [--config FILE], until it is told to stop.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = Object.fromEntries(
    process.argv.slice(2).flatMap((arg, i, all) => (arg.startsWith('--') ? [[arg.slice(2), all[i + 1]]] : [])),
  )
  const config = args.config ? JSON.parse(readFileSync(args.config, 'utf8')) : undefined
  const relay = await startEdge({ port: Number(args.port ?? 0), persist: args.persist, config })
  console.error(`listening on ${relay.url}`)
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, async () => {
      await relay.stop()
      process.exit(0)
    })
  }
}
