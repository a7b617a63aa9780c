// A worker whose first run never returns, as native code that hangs would: its thread is blocked for good.
import { parentPort } from 'node:worker_threads'
import type { FromWorker, ToWorker } from '../../gpu-backend/engine/protocol.ts'

const port = parentPort!
const stats = {
  steps: 0,
  prefillTokens: 0,
  decodeTokens: 0,
  rows: 1,
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
  if (message.type === 'generate') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
})
send({
  type: 'ready',
  info: { base: 'b'.repeat(64), maxPositions: 64, vocabSize: 16, slots: 1, provider: 'cpu' },
  stats,
})
setInterval(() => send({ type: 'alive', stats }), 5)
