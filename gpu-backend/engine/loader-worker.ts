// The entry of the thread that loads adapters.
import { parentPort, workerData } from 'node:worker_threads'
import { sitesOf } from '../../compiler/graph/sites.ts'
import { toFailure } from './failure.ts'
import type { LoadCall, Loaded, LoaderData } from './loader.ts'
import { mixReader } from './mix.ts'
import { type Packed, prepare } from './packed.ts'
import { adapterReader } from './store.ts'

const port = parentPort!
const { manifest, rank, folders } = workerData as LoaderData
const sites = sitesOf(manifest.base.architecture)
const read = mixReader(adapterReader(manifest, rank, folders), rank)

port.on('message', async ({ id, digest, mix }: LoadCall) => {
  try {
    const packed = prepare(sites, rank, await read(digest, mix))
    port.postMessage({ id, packed } satisfies Loaded, [bufferOf(packed)])
  } catch (error) {
    port.postMessage({ id, failure: toFailure(error) } satisfies Loaded)
  }
})

/** All parts of an adapter are views of one, which is handed over and not copied. */
function bufferOf({ sites: [first] }: Packed): ArrayBuffer {
  return first!.A.buffer as ArrayBuffer
}
