// How fast this machine reads memory that no cache holds, as an operator of ONNX Runtime reads it with as many threads.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GraphBuilder } from '../../compiler/graph/builder.ts'
import { encodeModel } from '../../compiler/onnx/encode.ts'
import { openSession } from '../../runtime/node.ts'
import { quantile } from '../record.ts'

const ROWS = 64
const BYTES = 256 * 1024 * 1024
const TIMES = 15

/** Bytes a second: the fastest of several sums over a matrix. */
export async function measureBandwidth(threads: number): Promise<number> {
  const builder = new GraphBuilder('read', [])
  const x = builder.input('x', 'float32', ['rows', 'columns'])
  builder.output('sums', builder.node('ReduceSum', 'sums', [x, builder.ints(1)], { keepdims: 0 }), 'float32', ['rows'])
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-read-'))
  try {
    const path = join(folder, 'read.onnx')
    await writeFile(path, encodeModel(builder.build()))
    const session = await openSession(path, { threads })
    const feeds = { x: { data: new Float32Array(BYTES / 4).fill(1), dims: [ROWS, BYTES / 4 / ROWS] } }
    const seconds: number[] = []
    for (let time = 0; time < TIMES; time++) {
      const start = performance.now()
      await session.run(feeds)
      seconds.push((performance.now() - start) / 1000)
    }
    await session.release()
    return BYTES / quantile(seconds, 0)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
