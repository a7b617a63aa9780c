// How long an adapter takes to be ready: from the call to the moment at which a step can run it.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { sitesOf } from '../../compiler/graph/sites.ts'
import { Bank } from '../../gpu-backend/engine/bank.ts'
import { startLoader } from '../../gpu-backend/engine/loader.ts'
import { quantile, type Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { type Fixture, RANK, smollm2 } from './fixture.ts'

const ADAPTERS = 30
/** Until the code of the loader is compiled. */
const WARM_UP = 10
/** Longer than the loader waits before it makes memory ready for the next one. */
const BETWEEN_MS = 200

/** Where the file and the memory for the adapter are when the load begins. */
interface Situation {
  readonly name: string
  /** Memory of another adapter has come back, as when host memory is full. */
  readonly isFull: boolean
  readonly pauseMs: number
  /** Not in the system's memory either: the disk itself is read. */
  readonly isUncached?: boolean
}

const SITUATIONS: readonly Situation[] = [
  { name: 'host memory full', isFull: true, pauseMs: BETWEEN_MS },
  { name: 'host memory not yet full', isFull: false, pauseMs: BETWEEN_MS },
  { name: 'host memory not yet full, one right after another', isFull: false, pauseMs: 0 },
  { name: 'host memory full, and the file not in the page cache', isFull: true, pauseMs: BETWEEN_MS, isUncached: true },
]

export async function ready(): Promise<Row[]> {
  const fixture = await smollm2()
  try {
    const digests: string[] = []
    for (let seed = 0; seed < ADAPTERS; seed++) digests.push(await fixture.adapter(seed))
    const rows: Row[] = []
    for (const situation of SITUATIONS) rows.push(await fromDisk(fixture, digests, situation))
    return [...rows, await fromHost(fixture, digests)]
  } finally {
    await fixture.remove()
  }
}

/** As the engine has it: the artifact's own adapters are looked through first. */
const loaderOf = ({ artifact, manifest, store }: Fixture) =>
  startLoader({ manifest, rank: RANK, folders: [join(artifact, 'adapters'), store] })

const bankOf = ({ manifest }: Fixture) =>
  new Bank(sitesOf(manifest.base.architecture), { slots: 4, rank: RANK, rows: 2 })

async function fromDisk(fixture: Fixture, digests: readonly string[], situation: Situation): Promise<Row> {
  const bank = bankOf(fixture)
  const loader = loaderOf(fixture)
  const samples: number[] = []
  try {
    for (const digest of digests) {
      if (situation.isUncached) dropFromPageCache(join(fixture.store, `${digest}.safetensors`))
      const begun = performance.now()
      const packed = await loader.read(digest)
      bank.write(1, packed)
      samples.push(round(performance.now() - begun))
      if (situation.isFull) loader.giveBack(packed)
      if (situation.pauseMs > 0) await sleep(situation.pauseMs)
    }
  } finally {
    await loader.close()
  }
  const what = `an adapter (r = ${RANK}, all linears) ready from disk: read, hashed, checked, laid out; ${situation.name}`
  return rowOf(what, samples.slice(WARM_UP))
}

/** Beside the row of another one, which makes it be copied beside that one's. */
async function fromHost(fixture: Fixture, digests: readonly string[]): Promise<Row> {
  const bank = bankOf(fixture)
  const loader = loaderOf(fixture)
  const samples: number[] = []
  try {
    for (const [at, digest] of digests.entries()) {
      bank.write(at === 0 ? 1 : 2, await loader.read(digest))
      await sleep(BETWEEN_MS)
      const begun = performance.now()
      bank.feeds(0, [1, 2])
      samples.push(round(performance.now() - begun))
    }
  } finally {
    await loader.close()
  }
  const what = `an adapter (r = ${RANK}, all linears) ready from host memory, copied beside that of another row`
  return rowOf(what, samples.slice(WARM_UP))
}

/** On Linux. What is not on the disk yet would stay. */
function dropFromPageCache(path: string): void {
  execFileSync('sync', ['-d', path])
  execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

function rowOf(what: string, samples: readonly number[]): Row {
  return { what, value: `${median(samples).toFixed(1)} ms (p95 ${quantile(samples, 0.95).toFixed(1)} ms)`, samples }
}
