// What GPTQ asks of a calibration text: Σ x·xᵀ over the inputs of each linear, from the base in float.
import { openCheckpoint } from '../checkpoint/read.ts'
import type { Architecture } from '../contract.ts'
import { buildGraphs } from '../graph/build-graphs.ts'
import { linearInput, linearNode } from '../graph/linear.ts'
import { type Site, sitesOf } from '../graph/sites.ts'
import { planWeights } from '../graph/weights.ts'
import { writeFile } from '../hashed-file.ts'
import type { Folder, Host, OutFolder } from '../host.ts'
import { encodeModel } from '../onnx/encode.ts'
import type { Graph, Node } from '../onnx/model.ts'
import { feedsOf } from '../verify/run-model.ts'
import type { GraphSession } from '../verify/session.ts'
import { PLAIN } from '../verify/side-path.ts'
import { inverseFactor } from './gptq.ts'

const GRAPH_FILE = 'calibrate.onnx'
/** Products that are gathered at once: more of them take memory, fewer take more runs of the base. */
const MAX_GATHERED_BYTES = 256 * 1024 * 1024

/** Writes the graph whose session `createCalibration` asks; its weights are those of the base's own artifact in float32. */
export async function writeCalibrationGraph(
  base: Folder,
  out: OutFolder,
  host: Host,
): Promise<{ readonly path: string; readonly architecture: Architecture }> {
  const checkpoint = await openCheckpoint(base)
  try {
    const { config } = checkpoint
    const { model } = buildGraphs(config, planWeights(config), { bank: [], stack: [] })
    await writeFile(out, GRAPH_FILE, encodeModel(attachProducts(model, config.architecture)), host)
    return { path: GRAPH_FILE, architecture: config.architecture }
  } finally {
    await checkpoint.close()
  }
}

const outputOf = (site: Site) => `${site.name}.inputs`

/** How compile asks for the factor of a module, in the order in which it writes them. */
export interface Calibration {
  /** SHA-256 of the token ids, for the manifest. */
  readonly digest: string
  /** `inverseFactor` of the module's inputs; undefined where it is no linear of a layer. */
  factorOf(module: string): Promise<Float64Array | undefined>
}

/** model.onnx with xᵀ·x [1, in, in] of every site as a further output. */
export function attachProducts(graph: Graph, architecture: Architecture): Graph {
  const sites = sitesOf(architecture)
  const byName = new Map(graph.nodes.map((node) => [node.name, node]))
  const nodes = sites.flatMap((site): Node[] => {
    const linear = byName.get(linearNode(site.name))
    if (linear === undefined) throw new Error(`sidepath bug: the graph has no node of ${site.name}`)
    const x = linearInput(graph, linear)
    const turned = `${outputOf(site)}.turned`
    return [
      { op: 'Transpose', name: turned, inputs: [x], outputs: [turned], attributes: { perm: [0, 2, 1] } },
      { op: 'MatMul', name: outputOf(site), inputs: [turned, x], outputs: [outputOf(site)], attributes: {} },
    ]
  })
  const outputs = sites.map((site) => {
    const size = site.linears[0]?.in ?? 0
    return { name: outputOf(site), type: 'float32' as const, shape: ['batch', size, size] }
  })
  return { ...graph, nodes: [...graph.nodes, ...nodes], outputs: [...graph.outputs, ...outputs] }
}

/** `windows`: token ids, each run by itself. `session`: of `attachProducts`. */
export function createCalibration(
  session: GraphSession,
  architecture: Architecture,
  windows: readonly (readonly number[])[],
  digest: string,
): Calibration {
  const sites = sitesOf(architecture)
  const siteOf = new Map(sites.flatMap((site) => site.linears.map(({ module }) => [module, site])))
  /** Of the sites that were gathered last: a module's neighbours are asked for next. */
  let products = new Map<Site, Float64Array>()
  let factors = new Map<Site, Float64Array>()

  async function gather(first: Site): Promise<void> {
    products = new Map()
    factors = new Map()
    let bytes = 0
    for (const site of sites.slice(sites.indexOf(first))) {
      const size = (site.linears[0]?.in ?? 0) ** 2
      bytes += 8 * size
      if (bytes > MAX_GATHERED_BYTES && products.size > 0) break
      products.set(site, new Float64Array(size))
    }
    const names = [...products.keys()].map(outputOf)
    for (const ids of windows) {
      const probe = { ids: [...ids], positions: ids.map((_, at) => at) }
      const results = await session.run(feedsOf(architecture, probe, PLAIN), names)
      for (const [site, sum] of products) {
        const part = results[outputOf(site)]?.data
        if (!(part instanceof Float32Array)) throw new Error(`sidepath bug: the graph gives no ${outputOf(site)}`)
        for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (part[i] as number)
      }
    }
  }

  return {
    digest,
    async factorOf(module) {
      const site = siteOf.get(module)
      if (site === undefined) return undefined
      const known = factors.get(site)
      if (known !== undefined) return known
      if (!products.has(site)) await gather(site)
      const factor = inverseFactor(products.get(site) as Float64Array, site.linears[0]?.in ?? 0)
      products.delete(site)
      factors.set(site, factor)
      return factor
    },
  }
}
