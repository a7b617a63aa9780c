// Where the engine's low-rank paths attach: linears of a layer that read the same value share one product with A.
import { layoutOf } from '../checkpoint/families/families.ts'
import { layerLinears } from '../checkpoint/names.ts'
import type { Architecture, Linear } from '../contract.ts'

export interface Site {
  /** Module of its first linear. */
  readonly name: string
  /** At least one; all of the same `in`. */
  readonly linears: readonly Linear[]
}

/** In graph order: queries, keys and values; the attention's output; the halves of the MLP's input; its output. */
export function sitesOf(architecture: Architecture): Site[] {
  const { qkv, mlp } = layoutOf(architecture)
  const sizes = [qkv.length, 1, mlp.length, 1]
  const sites: Site[] = []
  const linears = layerLinears(architecture)
  for (let at = 0; at < linears.length; ) {
    const size = sizes[sites.length % sizes.length] as number
    const [first, ...others] = linears.slice(at, at + size)
    if (first !== undefined) sites.push({ name: first.module, linears: [first, ...others] })
    at += size
  }
  return sites
}
