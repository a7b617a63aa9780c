// The entry of the thread that hashes what another one reads.
import { createHash } from 'node:crypto'
import { parentPort, workerData } from 'node:worker_threads'
import { GIVEN_UP, type HashCall, type HasherData } from './hasher.ts'

const port = parentPort!
const { filled } = workerData as HasherData

port.on('message', ({ memory, size }: HashCall) => {
  const hash = createHash('sha256')
  for (let done = 0; done < size; ) {
    Atomics.wait(filled, 0, done)
    const ready = Atomics.load(filled, 0)
    if (ready === GIVEN_UP) break
    hash.update(new Uint8Array(memory, done, ready - done))
    done = ready
  }
  port.postMessage(hash.digest('hex'))
})
