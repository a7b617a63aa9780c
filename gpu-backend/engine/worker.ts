// The worker thread's entry: an engine at the end of a message port.
import { parentPort, workerData } from 'node:worker_threads'
import { toFailure } from './failure.ts'
import { type AnyEngine, openAny } from './open-any.ts'
import { ALIVE_MS, type Call, type FromWorker, type Outcome, type ToWorker, type WorkerData } from './protocol.ts'

const port = parentPort!
const send = (message: FromWorker): void => port.postMessage(message)
const { config } = workerData as WorkerData

try {
  const opened = await openAny(config, (events, stats) => send({ type: 'events', events, stats }))
  port.on('message', (message: ToWorker) => receive(opened, message))
  send({ type: 'ready', info: opened.info, stats: opened.stats })
  // The port keeps the thread, this does not.
  setInterval(() => send({ type: 'alive', stats: opened.stats }), ALIVE_MS).unref()
} catch (error) {
  send({ type: 'unready', failure: toFailure(error) })
}

function receive(engine: AnyEngine, message: ToWorker): void {
  switch (message.type) {
    case 'generate':
      engine.submit(message.id, message.request)
      break
    case 'abort':
      engine.abort(message.id)
      break
    case 'close':
      engine.close().finally(() => port.close())
      break
    default:
      perform(engine, message)
        .catch((error) => ({ failure: toFailure(error) }))
        .then((outcome) => send({ type: 'done', id: message.id, outcome, stats: engine.stats }))
  }
}

async function perform(engine: AnyEngine, call: Call): Promise<Outcome> {
  switch (call.type) {
    case 'load':
      return { slot: await engine.load(call.digest, call.mix) }
    case 'unload':
      engine.unload(call.digest)
      return { ok: true }
    case 'embed':
      return { vectors: await engine.embed(call.id, call.request) }
    case 'list':
      return { residents: engine.residents() }
  }
}
