// The entry of the thread that loads adapters.
import { parentPort, workerData } from 'node:worker_threads'
import { sitesOf } from '../../compiler/graph/sites.ts'
import { toFailure } from './failure.ts'
import { Hasher } from './hasher.ts'
import type { LoadCall, Loaded, LoaderData, Returned } from './loader.ts'
import { mixReader } from './mix.ts'
import { bufferOf, type Factors, type Packed, prepare } from './packed.ts'
import { Spares } from './spares.ts'
import { adapterMaker, adapterReader } from './store.ts'

/** A load often makes another adapter go, whose memory then comes back: only after this is memory for the next one made. */
const REFILL_AFTER_MS = 100

const port = parentPort!
const { manifest, rank, folders } = workerData as LoaderData
const sites = sitesOf(manifest.base.architecture)
const hasher = new Hasher()
const spares = new Spares()
const make = (factors: Factors): Packed => prepare(sites, rank, factors, (floats) => spares.take(floats))
const readOne = adapterMaker(manifest, rank, folders, { readWhole: (file) => hasher.read(file), make })
// The factors of all parts are needed at once, and the hasher has room for those of one file.
const readMix = mixReader(adapterReader(manifest, rank, folders), rank)
const refill = setTimeout(() => spares.refill(), REFILL_AFTER_MS).unref()
let last = Promise.resolve()

port.on('message', (message: LoadCall | Returned) => {
  if ('returned' in message) spares.give(message.returned)
  else last = last.then(() => load(message))
})

/** One after the other: each has both threads for itself and is ready the sooner. */
async function load({ id, digest, mix }: LoadCall): Promise<void> {
  try {
    const packed = mix === undefined ? await readOne(digest) : make(await readMix(digest, mix))
    port.postMessage({ id, packed } satisfies Loaded, [bufferOf(packed)])
  } catch (error) {
    port.postMessage({ id, failure: toFailure(error) } satisfies Loaded)
  }
  refill.refresh()
}
