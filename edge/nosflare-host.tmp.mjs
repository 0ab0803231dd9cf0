import { Miniflare, convertV4MiniflareOptions } from 'miniflare'
const o = convertV4MiniflareOptions({ name: 'nosflare', host: '127.0.0.1', port: Number(process.argv[2]), modules: [{ type: 'ESModule', path: '/tmp/nosflare/worker.js' }], modulesRoot: '/tmp/nosflare', compatibilityDate: '2025-01-04', durableObjects: { RELAY_WEBSOCKET: { className: 'RelayWebSocket', useSQLite: true } }, d1Databases: { RELAY_DATABASE: 'db' } })
o.resourcePersistencePath = process.argv[3]
const m = new Miniflare(o)
await m.ready
console.error('listening')
process.on('SIGTERM', async () => { await m.dispose(); process.exit(0) })
