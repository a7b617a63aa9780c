// The thread of one lane: instantiates the module that it is given, and does lists of steps: a call by name, a block from
// one file to another, or the one between the other's reading and writing. Plain JavaScript, because to strip types costs each
// thread some megabytes.
import { readSync, writeSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

const { module, memory } = workerData
const { exports } = new WebAssembly.Instance(module, { env: { memory } })

/** The whole of a transfer; the system may take less at a time. */
function move(step, { file, offset, address, length }, what) {
  const bytes = new Uint8Array(memory.buffer, address, length)
  for (let done = 0; done < length; ) {
    const moved = step(file, bytes, done, length - done, offset + done)
    if (moved === 0) throw new Error(what)
    done += moved
  }
}

parentPort.on('message', (steps) => {
  try {
    let largest = 0
    for (const { read, call, write } of steps) {
      if (read !== undefined) move(readSync, read, 'a file shrank while it was read')
      const result = call === undefined ? 0 : exports[call.name](...call.args) >>> 0
      if (write !== undefined) move(writeSync, write, 'a file takes no more bytes')
      largest = Math.max(largest, result)
    }
    parentPort.postMessage({ result: largest })
  } catch (error) {
    parentPort.postMessage({ error: String(error), code: error.code })
  }
})
