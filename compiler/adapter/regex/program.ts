// A parsed pattern → a nondeterministic automaton (Thompson): states that wait for one character, and empty moves.
import type { Budget } from './budget.ts'
import type { CharTest } from './chars.ts'
import { type Node, type Place, parsePattern } from './parse.ts'

export type State =
  | { readonly op: 'char'; readonly test: CharTest; readonly next: number }
  | { readonly op: 'split'; readonly to: readonly number[] }
  | { readonly op: 'place'; readonly place: Place; readonly next: number }
  | { readonly op: 'ahead'; readonly start: number; readonly negated: boolean; readonly next: number }
  | { readonly op: 'match' }

export interface Program {
  readonly states: readonly State[]
  readonly start: number
}

/** Throws `PatternError` for what the subset leaves out, and where the patterns together are too large. */
export function compilePattern(source: string, budget: Budget): Program {
  const builder = new Builder(budget)
  const start = builder.build(parsePattern(source), builder.add({ op: 'match' }))
  return { states: builder.states, start }
}

class Builder {
  readonly states: State[] = []
  readonly #budget: Budget

  constructor(budget: Budget) {
    this.#budget = budget
  }

  add(state: State): number {
    this.states.push(state)
    return this.states.length - 1
  }

  /** States for `node` that continue at `next`; gives where they start. */
  build(node: Node, next: number): number {
    // Counts nodes, not states: an empty group repeated a thousand times, thrice nested, has no states at all.
    this.#budget.spendNode()
    switch (node.kind) {
      case 'char':
        return this.add({ op: 'char', test: node.test, next })
      case 'place':
        return this.add({ op: 'place', place: node.place, next })
      case 'sequence':
        return node.items.reduceRight((after, item) => this.build(item, after), next)
      case 'either':
        return this.add({ op: 'split', to: node.options.map((option) => this.build(option, next)) })
      case 'ahead': {
        const start = this.build(node.item, this.add({ op: 'match' }))
        return this.add({ op: 'ahead', start, negated: node.negated, next })
      }
      case 'repeat':
        return this.#repeat(node, next)
    }
  }

  #repeat({ item, min, max }: Node & { kind: 'repeat' }, next: number): number {
    let start = next
    if (max === Number.POSITIVE_INFINITY) {
      const to: number[] = []
      start = this.add({ op: 'split', to })
      to.push(this.build(item, start), next)
    } else {
      for (let i = min; i < max; i += 1) start = this.add({ op: 'split', to: [this.build(item, start), next] })
    }
    for (let i = 0; i < min; i += 1) start = this.build(item, start)
    return start
  }
}
