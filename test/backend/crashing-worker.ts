// A worker that dies in the middle of its first generation.
import { parentPort } from 'node:worker_threads'
import type { FromWorker, ToWorker } from '../../gpu-backend/engine/protocol.ts'

const port = parentPort!
const stats = {
  steps: 0,
  prefillTokens: 0,
  decodeTokens: 0,
  rows: 0,
  queued: 0,
  slots: 1,
  free: 1,
  running: [],
  waiting: [],
  kvUsed: 0,
}
const send = (message: FromWorker): void => port.postMessage(message)

port.on('message', (message: ToWorker) => {
  if (message.type === 'close') return port.close()
  if (message.type !== 'generate') return
  send({ type: 'events', events: [{ id: message.id, piece: { ids: [1], text: 'a' } }], stats })
  setImmediate(() => process.exit(9))
})
const info = { base: 'b'.repeat(64), maxPositions: 64, vocabSize: 16, slots: 1, provider: 'cpu' }
send({ type: 'ready', info, stats })
