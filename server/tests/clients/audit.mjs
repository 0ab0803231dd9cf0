// Checks of a page's accessibility and layout; runs in the browser.

/** Faults of the document as it is laid out now, in words. It may use nothing from outside itself. */
export function audit({ isDark }) {
  const faults = []
  const expect = (holds, fault) => holds || faults.push(fault)
  const shown = element => `${element.tagName.toLowerCase()} «${element.textContent.trim().slice(0, 30)}»`

  // The document.
  expect(document.title.trim(), 'no title')
  expect(document.documentElement.lang === 'en', 'no language')
  const levels = Array.from(document.querySelectorAll('h1, h2, h3, h4, h5, h6'), heading => Number(heading.tagName[1]))
  expect(levels[0] === 1 && levels.lastIndexOf(1) === 0, `headings: ${levels}`)
  expect(levels.every((level, n) => level <= (levels[n - 1] ?? 0) + 1), `a level of headings is left out: ${levels}`)
  for (const picture of document.images) {
    expect(picture.hasAttribute('alt'), `no alternative to ${picture.src}`)
    expect(picture.naturalWidth > 0, `no picture at ${picture.src}`)
  }
  for (const link of document.links) expect(link.textContent.trim(), `no words: ${link.href}`)
  for (const script of document.scripts) expect(!script.src, `a script from ${script.src}`)

  // Nothing is beyond the edge, nor cut off or scrolled sideways.
  const width = document.documentElement.clientWidth
  expect(document.documentElement.scrollWidth <= width, `${document.documentElement.scrollWidth} pixels in ${width}`)
  for (const element of document.body.querySelectorAll('*')) {
    const { left, right } = element.getBoundingClientRect()
    expect(left >= 0 && right <= width + 0.5, `beyond the edge: ${shown(element)}`)
    // A line of text is scrolled in its field.
    const isOpen = element instanceof HTMLInputElement || getComputedStyle(element).overflowX === 'visible'
    expect(isOpen || element.scrollWidth <= element.clientWidth, `cut off: ${shown(element)}`)
  }

  // A finger hits the links that stand by themselves.
  for (const link of document.querySelectorAll('nav a')) {
    expect(link.getBoundingClientRect().height >= 24, `a small link: ${shown(link)}`)
  }

  // Text can be read: 4.5 to 1 (WCAG 2, AA).
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = color
    canvas.fillRect(0, 0, 1, 1)
    return canvas.getImageData(0, 0, 1, 1).data
  }
  const luminance = color => {
    const [r, g, b] = Array.from(rgba(color).slice(0, 3), value => {
      const part = value / 255
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor
      const alpha = rgba(color)[3]
      if (alpha === 255) return color
      expect(alpha === 0, `a translucent background: ${shown(at)}`)
    }
    return 'white'
  }
  const page = luminance(ground(document.body))
  expect(isDark ? page < 0.05 : page > 0.85, `a page of luminance ${page}`)
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  let measured = 0
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement
    if (!texts.currentNode.data.trim() || element.tagName === 'SCRIPT') continue
    const lights = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => b - a)
    const contrast = (lights[0] + 0.05) / (lights[1] + 0.05)
    expect(contrast >= 4.5, `contrast ${contrast.toFixed(2)}: ${shown(element)}`)
    expect(parseFloat(getComputedStyle(element).fontSize) >= 12, `small print: ${shown(element)}`)
    measured++
  }
  expect(measured > 5, 'no text')
  return faults
}
