// The thread of one lane: instantiates the module that it is given, and answers calls by name. Plain JavaScript, because
// to strip types costs each thread some megabytes.
import { parentPort, workerData } from 'node:worker_threads'

const { module, memory } = workerData
const { exports } = new WebAssembly.Instance(module, { env: { memory } })

parentPort.on('message', ({ name, args }) => {
  try {
    parentPort.postMessage({ result: exports[name](...args) })
  } catch (error) {
    parentPort.postMessage({ error: String(error) })
  }
})
