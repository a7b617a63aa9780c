// In which shape the layers' linears see the hidden states: a row of the batch by itself, or the rows of a group together.
import { graphNames } from '../contract.ts'
import type { GraphBuilder } from './builder.ts'
import type { LinearShape } from './linear.ts'

/** B rows, S tokens, G groups of B/G rows, D head size. */
export interface Rows extends LinearShape {
  /** Hidden states [B, S, hidden] → the shape in which the linears run. */
  enter(hidden: string): string
  /** And back. */
  leave(hidden: string): string
  /** Of a linear, `count` heads → [B, S, count, D]. */
  apart(at: string, x: string, count: number): string
  /** [B, S, heads, D] → for a linear. */
  flat(at: string, x: string, heads: number): string
}

/** [B, S, …] everywhere. */
export function rowsApart(builder: GraphBuilder, headDim: number): Rows {
  return {
    kept: [0, 0],
    enter: (hidden) => hidden,
    leave: (hidden) => hidden,
    apart: (at, x, count) => builder.node('Reshape', at, [x, builder.ints(0, 0, count, headDim)]),
    flat: (at, x, heads) => builder.node('Reshape', at, [x, builder.ints(0, 0, heads * headDim)]),
  }
}

/** [B·S, …] for the linears, which then are products of two matrices, to which a third can be added. */
export function rowsFlat(builder: GraphBuilder, hiddenSize: number, headDim: number): Rows {
  const rows = builder.node('Shape', 'rows', [graphNames.inputIds])
  const shape = shapes(builder)
  return {
    kept: [0],
    enter: (hidden) => builder.node('Reshape', 'flat.hidden', [hidden, builder.ints(-1, hiddenSize)]),
    leave: (hidden) => builder.node('Reshape', 'rows.hidden', [hidden, shape('rows.of', rows, hiddenSize)]),
    apart: (at, x, count) => builder.node('Reshape', at, [x, shape('rows.of', rows, count, headDim)]),
    flat: (at, x, heads) => builder.node('Reshape', at, [x, builder.ints(-1, heads * headDim)]),
  }
}

/** A shape: sizes that are known behind such as are not. Once each. */
const shapes =
  (builder: GraphBuilder) =>
  (at: string, front: string, ...sizes: number[]): string => {
    const name = `${at}.${sizes.join('.')}`
    return builder.has(name) ? name : builder.node('Concat', name, [front, builder.ints(...sizes)], { axis: 0 })
  }

/** [G, B/G·S, …] for the linears: no row is copied, as those of a group are neighbours. `factor`: an input [G, …]. */
export function rowsInGroups(builder: GraphBuilder, factor: string, hiddenSize: number, headDim: number): Rows {
  const groups = builder.node('Shape', 'groups', [factor], { start: 0, end: 1 })
  const rows = builder.node('Shape', 'rows', [graphNames.inputIds])
  const shape = shapes(builder)
  const grouped = (width: number) => shape('groups.of', groups, -1, width)
  return {
    kept: [0, 0],
    enter: (hidden) => builder.node('Reshape', 'groups.hidden', [hidden, grouped(hiddenSize)]),
    leave: (hidden) => builder.node('Reshape', 'rows.hidden', [hidden, shape('rows.of', rows, hiddenSize)]),
    apart: (at, x, count) => builder.node('Reshape', at, [x, shape('rows.of', rows, count, headDim)]),
    flat: (at, x, heads) => builder.node('Reshape', at, [x, grouped(heads * headDim)]),
  }
}
