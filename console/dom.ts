// Elements of a page by their ids and types.

/** The page and its script are written together, so what is missing is our fault. */
export function byId<T extends Element>(id: string, type: new () => T): T {
  const found = document.getElementById(id)
  if (found instanceof type) return found
  throw new Error(`sidepath bug: the page has no ${type.name} "${id}"`)
}

/** As text, never as markup: names and errors hold what others wrote. */
export function fillList(list: Element, sentences: readonly string[]): void {
  list.replaceChildren(
    ...sentences.map((sentence) => {
      const item = document.createElement('li')
      item.textContent = sentence
      return item
    }),
  )
}

export function fillTable(body: Element, rows: readonly (readonly [string, string])[]): void {
  body.replaceChildren(
    ...rows.map(([name, value]) => {
      const row = document.createElement('tr')
      const [head, cell] = [document.createElement('th'), document.createElement('td')]
      head.scope = 'row'
      head.textContent = name
      cell.textContent = value
      row.append(head, cell)
      return row
    }),
  )
}
