"""The report of a run: a static site of HTML pages, small scripts and data files, which opens from a folder or a store.

    index.html                      the run: groups, errors, settings, times
    group-<n>.html                  a group: histogram and threshold, worst images, table of all images
    image.html#<n>/<rank>           an image: heat map, similar images, how its score came about
    static/                         style and scripts
    data/run.js, groups-*.js, errors-*.js
    data/group-<n>/group.js         names, scale, threshold; scores.js: all scores, by rank
    data/group-<n>/verdicts.js      what was said of its images when the report was written
    data/group-<n>/rows-*.js        rows of the table, by rank; sheet-*.jpg: their thumbnails
    data/group-<n>/detail-*.js      patch maps and similar images, in the order of the scores table
    data/group-<n>/picture-*.jpg    the worst images, larger
    data/group-<n>/zoom-*.jpg       the part around the peak of those that are larger than their picture, 1:1
    data/group-<n>/defect-*.jpg     images that share a repeated defect, with its patches

Data are scripts, since a page opened from a folder may not read other files (see static/data.js).

Modules: build.py (the driver) makes contents.py from the tables of a run; pages.py makes the pages; site_writer.py
(the role of its workers) writes image_table.py (rows and details of the table of images) and pictures.py; zoom.py
chooses the part of large images that is shown 1:1; verdicts.py has the stored verdicts. static/marks.js keeps new ones,
static/marking.js has their buttons and keys. heatmaps.py (the driver), heatmap_writer.py (the role) and
heatmap_files.py (encoding) export heat maps as files.
"""
