// The worker thread's entry: an engine at the end of a message port.
import { parentPort, workerData } from 'node:worker_threads'
import type { Engine } from './engine.ts'
import { toFailure } from './failure.ts'
import { type OpenEngine, openEngine } from './open.ts'
import { ALIVE_MS, type Call, type FromWorker, type Outcome, type ToWorker, type WorkerData } from './protocol.ts'

const port = parentPort!
const send = (message: FromWorker): void => port.postMessage(message)
const { config } = workerData as WorkerData

try {
  const opened = await openEngine(config, (events, engine) => send({ type: 'events', events, stats: engine.stats }))
  port.on('message', (message: ToWorker) => receive(opened, message))
  send({ type: 'ready', info: opened.info, stats: opened.engine.stats })
  // The port keeps the thread, this does not.
  setInterval(() => send({ type: 'alive', stats: opened.engine.stats }), ALIVE_MS).unref()
} catch (error) {
  send({ type: 'unready', failure: toFailure(error) })
}

function receive({ engine, close }: OpenEngine, message: ToWorker): void {
  switch (message.type) {
    case 'generate':
      engine.submit(message.id, message.request)
      break
    case 'abort':
      engine.abort(message.id)
      break
    case 'close':
      close().finally(() => port.close())
      break
    default:
      perform(engine, message)
        .catch((error) => ({ failure: toFailure(error) }))
        .then((outcome) => send({ type: 'done', id: message.id, outcome, stats: engine.stats }))
  }
}

async function perform(engine: Engine, call: Call): Promise<Outcome> {
  switch (call.type) {
    case 'load':
      return { slot: await engine.load(call.digest, call.mix) }
    case 'unload':
      engine.unload(call.digest)
      return { ok: true }
    case 'list':
      return { residents: engine.residents() }
  }
}
